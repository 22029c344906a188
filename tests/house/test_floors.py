"""A module imports only from floors below its own; rooms on one floor do not know each other."""

import ast
import re
from pathlib import Path

import pytest

from tests.house.source import MODULES, PACKAGE, name, tree

FLOORS = """__version__ errors words
demos fields files json_file lazy machine processes
native
model
anatomy
tokenizer quant report
families
formats data
inspect backend
generation
adapters
running training
verification
experiments lab bench one_file
glass planning
serve
cli
__init__ __main__
"""
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS.strip().splitlines()) for room in rooms.split()}
STRANGERS = {  # floors would allow it, the plan does not: this room must not know those
    **{room: {"model"} for room in ("native", "tokenizer", "report")},
    "inspect": {"tokenizer", "formats", "data"},
    "generation": {"formats", "data"},
    "serve": {"training"},
}


def imports(node: ast.AST) -> list[str]:
    """Modules of this package that a node names; a string like one is a lazy import."""
    match node:
        case ast.Import():
            return [alias.name for alias in node.names if alias.name.startswith("fathom.")]
        case ast.ImportFrom(level=0, module="fathom"):
            return [f"fathom.{alias.name}" for alias in node.names]
        case ast.ImportFrom(level=0, module=str(module)) if module.startswith("fathom."):
            return [module]
        case ast.ImportFrom(level=1 | 2 | 3):
            return ["fathom.(a relative import)"]
        case ast.Constant(value=str(text)) if re.fullmatch(r"fathom(\.\w+)+", text):
            return [text]
    return []


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_only_from_lower_floors(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    known = {(other.split(".")[1], node.lineno) for node in ast.walk(tree(path)) for other in imports(node)}
    barred = {other for other, _ in known if FLOOR.get(other, 99) >= FLOOR[own]} | STRANGERS.get(own, set())
    assert not [f"{name(path)}:{line} knows {other}" for other, line in known if other != own and other in barred]
