"""Decide in __init__, compute in forward: a pass through the model hardly branches."""

import ast
import sys
from types import FrameType

from tests.house.source import PACKAGE, functions
from tests.house.worlds import WORLDS


def test_a_forward_pass_hardly_branches() -> None:
    """At most 21 branches in what runs. Guards that only raise do not count, nor does the cache: state passed in."""
    ran: set[tuple[str, int]] = set()

    def note(frame: FrameType, event: str, arg: object) -> None:
        ran.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))

    for world in WORLDS:
        model = world.model()
        sys.setprofile(note)
        try:
            world.passes(model)
        finally:
            sys.setprofile(None)
    passed = [
        f
        for p in (PACKAGE / "model").glob("*.py")
        if p.name != "cache.py"
        for f in functions(p)
        if (str(p), f.lineno) in ran
    ]
    ifs = [n for f in passed for n in ast.walk(f) if isinstance(n, ast.If | ast.IfExp | ast.Match) and not guard(n)]
    assert len(passed) > 10 and len(ifs) <= 21


def guard(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and all(isinstance(line, ast.Raise) for line in node.body) and not node.orelse
