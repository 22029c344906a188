"""What shape comments say: `# (b, t, d)`, `# (..., 1, t, c/2)`, `# (b, t, d), (t,) or (b, t) -> (b, t, d)`."""

import ast
import re
import tokenize
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from types import FrameType
from typing import Any

KINDS = {ast.Assign: "value", ast.AnnAssign: "value", ast.Return: "return", ast.FunctionDef: "def"}


@dataclass(frozen=True)
class Promise:
    """The comment behind one statement. Before the arrow: a def's tensors; after it, or without one: the results."""

    where: str
    lines: range
    kind: str
    names: tuple[str, ...]  # targets of an assignment, as `self.padding`
    text: str

    def values(self, frame: FrameType) -> list[Any]:
        """What the targets hold once the assignment is made."""
        paths = [name.split(".") for name in self.names]
        return [reduce(getattr, rest, frame.f_locals[first]) for first, *rest in paths]

    @property
    def sides(self) -> tuple[list[str], list[str]]:
        *given, results = (re.split(r"(?<=\)),", side) for side in self.text.split("->"))
        return (given[0] if given else []), results


def promises(path: Path) -> dict[int, Promise]:
    """Line -> promise, for every line of every statement that has one. A comment behind anything else is an error."""
    with path.open("rb") as file:
        comments = {t.end[0]: t.string for t in tokenize.tokenize(file.readline) if t.type == tokenize.COMMENT}
    said = {line: text.lstrip("# ") for line, text in comments.items() if re.match(r"#\s*\(", text)}
    found = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if type(node) in KINDS:
            end = node.body[0].lineno - 1 if isinstance(node, ast.FunctionDef) else node.end_lineno
            start = min(n.lineno for n in (node, *getattr(node, "decorator_list", [])))
            for line in said.keys() & set(range(start, end + 1)):
                targets = getattr(node, "targets", [getattr(node, "target", None)])[0]
                names = tuple(ast.unparse(name) for name in getattr(targets, "elts", [targets]) if name is not None)
                promise = Promise(
                    f"{path}:{node.lineno}", range(start, end + 1), KINDS[type(node)], names, said.pop(line)
                )
                found |= dict.fromkeys(promise.lines, promise)
    assert not said, f"{path}: a shape comment must stand behind an assignment, a return or a def: {said}"
    return found
