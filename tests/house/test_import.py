"""Help is at hand at once: neither `import fathom` nor `fathom --help` loads torch."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fathom
from tests.house.source import PACKAGE, tree

HELP = "from fathom.cli.main import main; code = main(['--help']); assert code == 0, code"
CALLS = {
    "import": "import fathom",
    "help": HELP,
    "version": HELP.replace("--help", "--version"),
    "verb help": HELP.replace("'--help'", "'generate', '--help'"),
}
HEAVY = {"torch", "numpy", "tokenizers", "matplotlib", "huggingface_hub"}


@pytest.mark.parametrize("call", CALLS)
def test_torch_is_not_loaded(call: str) -> None:
    code = f"{CALLS[call]}\nimport sys\nprint('loaded', *({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded"


def test_importing_says_nothing() -> None:
    """Not the package, not its biggest part: no text, no warning."""
    code = "import fathom.training.train, fathom.generation.generate, fathom.formats.load"
    done = subprocess.run([sys.executable, "-W", "error::DeprecationWarning:fathom", "-c", code], capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_type_checkers_see_what_python_gives() -> None:
    """`dir`, Tab and mypy agree on the public names and where they are defined."""
    declared = {
        alias.name: node.module
        for node in ast.walk(tree(PACKAGE / "__init__.py"))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("fathom.")
        for alias in node.names
    }
    assert declared == {name: f"fathom.{module}" for name, module in fathom.PUBLIC.items()}
    assert {*fathom.__all__} <= {*dir(fathom)}
    for name, module in declared.items():
        assert getattr(fathom, name) is vars(sys.modules[module])[name]
        assert getattr(fathom, name).__module__ == module


def test_mypy_refuses_a_name_that_does_not_exist(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import fathom\nfathom.train\nfathom.trian\n", encoding="utf-8")
    environment = {**os.environ, "MYPYPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--no-incremental", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert "program.py:3" in done.stdout and "trian" in done.stdout and "program.py:2" not in done.stdout
