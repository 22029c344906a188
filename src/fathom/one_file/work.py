"""What the model needs of the package, and the definitions that it is taken from."""

import ast
import inspect
import io
import textwrap
import tokenize
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fathom.model.config import ResolvedConfig
from fathom.one_file.known import attributes

Key = tuple[Any, str]  # a class and a method of it, or a function and ""


@dataclass
class Site:
    """A call that stays: its node, which loses the arguments that are known to all, and what is known of each."""

    node: ast.Call
    known: dict[str, Any]
    places: list[str]  # the parameter of each argument without a name


@dataclass
class Work:
    """What the model needs, and what was made of it."""

    model: nn.Module
    config: ResolvedConfig
    instances: dict[type, list[nn.Module]]
    sites: dict[Key, list[Site]] = field(default_factory=dict)
    needed: list[Key] = field(default_factory=list)
    records: list[type] = field(default_factory=list)  # classes that hold values, such as Soft
    constants: dict[str, Any] = field(default_factory=dict)
    own: dict[type, dict[str, Any]] = field(default_factory=dict)
    variants: dict[Any, list[ResolvedConfig]] = field(default_factory=dict)  # other configs that functions are given
    renamed: dict[str, Any] = field(default_factory=dict)

    def need(self, key: Key, site: Site | None = None) -> None:
        if key not in self.needed:
            self.needed.append(key)
        if site is not None:
            self.sites.setdefault(key, []).append(site)

    def attributes_of(self, cls: type) -> dict[str, Any]:
        if cls not in self.own:
            self.own[cls] = attributes(self.instances[cls]) if cls in self.instances else {}
        return self.own[cls]


def ours(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).startswith("fathom.")


def parsed(thing: Any) -> ast.FunctionDef:
    """The definition of a function, each statement with the comment that ends its last line."""
    source = textwrap.dedent(inspect.getsource(thing))
    [definition] = ast.parse(source).body
    comments: dict[int | None, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not token.string.startswith(("# type:", "# fmt:", "# noqa")):
            comments[token.start[0]] = token.string.split("  # type:")[0]
    for node in ast.walk(definition):
        if isinstance(node, ast.stmt):
            last = node.body[0].lineno - 1 if isinstance(node, ast.FunctionDef) else node.end_lineno
            node.comment = comments.get(last)  # type: ignore[attr-defined]
    assert isinstance(definition, ast.FunctionDef)
    return definition


def literal(value: Any) -> ast.expr | None:
    """A constant as it is written; None: it cannot be."""
    if value is None or isinstance(value, bool | int | float | str):
        return ast.parse(
            repr(value) if value not in (float("inf"), float("-inf")) else f"float({str(value)!r})", mode="eval"
        ).body
    if type(value) in (tuple, list, dict):
        try:
            return ast.parse(repr(value), mode="eval").body
        except SyntaxError:
            return None
    return None


def written_out(value: Any) -> ast.expr:
    """A constant as it is written. TypeError where it cannot be."""
    made = literal(value)
    if made is None:
        raise TypeError(f"{value!r} has no literal")
    return made


def definer_of(cls: type, name: str) -> type:
    return next(each for each in cls.__mro__ if name in vars(each))


def fits(pattern: ast.pattern, subject: Any) -> bool:
    match pattern:
        case ast.MatchValue(value=ast.Constant(value=value)):
            return bool(subject == value)
        case ast.MatchOr(patterns=patterns):
            return any(fits(one, subject) for one in patterns)
        case ast.MatchAs(pattern=None, name=None):
            return True
    return False


def method_name(name: str) -> str:
    """What a method is called: "forward of ExpertsMLP" is experts_forward."""
    method, _, parent = name.partition(" of ")
    return f"{parent.removesuffix('MLP').lower()}_{method}" if parent else name


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_own(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"


def is_items(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "items"


def is_empty(node: ast.expr) -> bool:
    return isinstance(node, ast.Tuple | ast.List) and not node.elts


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def plain(key: Key) -> str:
    return key[1].partition(" of ")[0]


def called_as(key: Key) -> str:
    return method_name(key[1]) if key[1] else str(key[0].__name__)
