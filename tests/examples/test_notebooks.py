"""The notebooks in examples/ run from their first cell to their last, with a small budget, and hold no outputs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.source import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
BUDGET = ("minutes = 1.0", "minutes = 0.03")


def code(path: Path) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_clean(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
    assert any(BUDGET[0] in cell for cell in code(path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    """In one fresh process; a cell's last expression is shown, as a notebook does."""
    program = tmp_path / "cells.py"
    cells = [cell.replace(*BUDGET) for cell in code(path)]
    program.write_text(f"CELLS = {cells!r}\n{RUN}", encoding="utf-8")
    done = subprocess.run([sys.executable, program], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for shown in ("validation", "Figure", "blocks.0.attn.pattern", "nats per token", "verified", "same ids", "GGUF"):
        assert shown in done.stdout, done.stdout


RUN = """
import ast
names = {"__name__": "__main__"}
for cell in CELLS:
    *body, last = ast.parse(cell).body
    if isinstance(last, ast.Expr):
        exec(compile(ast.Module(body, []), "cell", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        if value is not None:
            print(repr(value))
            getattr(value, "_repr_html_", lambda: None)()
    else:
        exec(compile(cell, "cell", "exec"), names)
"""
