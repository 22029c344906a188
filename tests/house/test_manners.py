"""The library never prints outside of cli/, loads pickles, runs text as code, swallows all errors or leaves TODOs."""

import ast
import re
from pathlib import Path

import pytest

from tests.house.source import MODULES, PACKAGE, name, tree


def rude(node: ast.AST, path: Path) -> str:
    """What is wrong with a node, or nothing."""
    match node:
        case ast.Call(func=ast.Name(id="print")) if "cli" not in path.relative_to(PACKAGE).parts:
            return "prints; return a value, or report an event"
        case ast.Call(func=ast.Name(id="eval" | "exec" | "compile" | "__import__")):
            return "runs text as code"
        case ast.Import(names=names) if {"pickle", "shelve", "dill", "marshal"} & {n.name for n in names}:
            return "uses pickles, which can run anything"
        case ast.ImportFrom(module="pickle" | "shelve" | "dill" | "marshal"):
            return "uses pickles, which can run anything"
        case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load"), keywords=given):
            safe = [k for k in given if k.arg == "weights_only" and getattr(k.value, "value", None) is True]
            return "" if safe else "torch.load without weights_only=True"
        case ast.keyword(arg="weights_only", value=ast.Constant(value=False)):
            return "weights_only=False"
        case ast.Call(func=ast.Attribute(value=ast.Name(id="yaml"), attr="load" | "unsafe_load" | "full_load")):
            return "yaml that can build any object; use safe_load"
        case ast.ExceptHandler(type=None):
            return "a bare except"
        case ast.Call(func=ast.Attribute(value=ast.Name(id="logging"), attr="basicConfig")):
            return "configures logging"
        case ast.Assert() if "cli" in path.relative_to(PACKAGE).parts:
            return "an assert where a user's mistake should be told"
    return ""


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_good_manners(path: Path) -> None:
    found = [f"{name(path)}:{node.lineno} {what}" for node in ast.walk(tree(path)) if (what := rude(node, path))]
    text = path.read_text(encoding="utf-8")
    found += [f"{name(path)}: {word}" for word in re.findall(r"\b(?:TODO|FIXME|XXX|HACK)\b", text)]
    assert not found


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_file_says_first_which_idea_lives_in_it(path: Path) -> None:
    said = ast.get_docstring(tree(path))
    assert said and (path.name == "__init__.py" or len(said.splitlines()) <= 6)
