"""The package as Python shows it: its names, their help and their types."""

import ast
import os
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import fathom
from tests.house.source import PACKAGE, tree


def test_type_checkers_see_what_python_gives() -> None:
    """`dir`, Tab and mypy agree on the public names and where they are defined."""
    declared = {
        alias.name: node.module
        for node in ast.walk(tree(PACKAGE / "__init__.py"))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("fathom.")
        for alias in node.names
    }
    assert declared == {name: f"fathom.{module}" for name, module in fathom.PUBLIC.items()}
    assert {*fathom.__all__} <= {*fathom.PUBLIC} <= {*dir(fathom)}
    for name, module in declared.items():
        assert getattr(fathom, name) is vars(sys.modules[module])[name]
        assert getattr(fathom, name).__module__ == module


def test_help_is_readable() -> None:
    """Every verb with its signature and an example, and nothing that torch's classes inherit."""
    page = pydoc.render_doc(fathom, renderer=pydoc.plaintext)
    assert len(page.splitlines()) < 400 and " at 0x" not in page
    for name in fathom.__all__:
        assert f"\n    {name}(" in page and f"fathom.{name}(" in str(getattr(fathom, name).__doc__)


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(AttributeError, match="'trian'; did you mean train"):
        fathom.trian  # type: ignore[attr-defined] # noqa: B018
    assert not [name for name in dir(fathom) if name in ("Any", "PUBLIC", "import_module")]


def test_mypy_refuses_a_name_that_does_not_exist(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import fathom\nfathom.train\nfathom.trian\n", encoding="utf-8")
    environment = {**os.environ, "MYPYPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--no-incremental", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert "program.py:3" in done.stdout and "trian" in done.stdout and "program.py:2" not in done.stdout
