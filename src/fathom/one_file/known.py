"""What is known of an expression once the model is: its config, and what its modules hold.

Everything here answers "what is this, for every layer and every input?" with a Python object, or with UNKNOWN.
"""

import ast
import builtins
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any

from torch import Tensor, nn

from fathom.model.config import ResolvedConfig

UNKNOWN: Any = type("Unknown", (), {"__repr__": lambda self: "UNKNOWN"})()
PURE = {isinstance, len, max, min, bool, dict, dict.fromkeys, tuple, abs}
COMPARE: dict[type, Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip
BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Pow: operator.pow, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A module that an attribute holds, of this class in every instance."""

    cls: type


@dataclass(frozen=True)
class Parts:
    """The same, of one of several classes."""

    classes: tuple[type, ...]


@dataclass(frozen=True)
class Method:
    """A method of a module of this class."""

    cls: type
    name: str


class Same:
    """A module or function that returns its argument."""


class Some:
    """A tensor: there is one."""


SAME, SOME = Same(), Some()
Opaque = Part | Parts | Method | Same | Some  # known to be there, but no constants


@dataclass
class Frame:
    """What is known inside one function: the names of its module, its own, and what `self` holds.

    cls: the class whose method it is. model: the whole model, inside Transformer, of which there is one.
    """

    scope: Mapping[str, Any]
    names: dict[str, Any] = field(default_factory=dict)
    cls: type | None = None
    own: Mapping[str, Any] = field(default_factory=dict)
    model: nn.Module | None = None


def attributes(instances: list[Any]) -> dict[str, Any]:
    """Of modules of one class: what each attribute is in all of them, a constant or a Part; differing ones are left
    out."""
    found: dict[str, Any] = {}
    for name in dir(instances[0]):
        if (
            name.startswith("__")
            or name in ("training", "forward")
            or isinstance(getattr(type(instances[0]), name, None), property)
        ):
            continue
        values = [described(getattr(one, name, UNKNOWN)) for one in instances]
        if values[0] is not UNKNOWN and all(same(value, values[0]) for value in values):
            found[name] = values[0]
        elif all(isinstance(value, Part) for value in values):
            found[name] = Parts(tuple(dict.fromkeys(value.cls for value in values)))
    return found


def described(value: Any) -> Any:
    """A value as it is known: constants and functions themselves, modules as their class, tensors not at all."""
    if isinstance(value, nn.Identity) or (isinstance(value, nn.Dropout) and value.p == 0):
        return SAME
    if isinstance(value, Tensor):
        return SOME
    if isinstance(value, nn.Module):
        return Part(type(value))
    plain = value is None or isinstance(value, bool | int | float | str | ResolvedConfig) or is_dataclass(value)
    if plain or (callable(value) and hasattr(value, "__module__") and not hasattr(value, "__self__")):
        return value
    if isinstance(value, tuple) and all(described(one) is not UNKNOWN for one in value):
        return value
    return UNKNOWN


def same(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and bool(a == b))


def value_of(node: ast.expr | None, frame: Frame) -> Any:
    """What an expression is, or UNKNOWN."""
    find = FINDERS.get(type(node))
    return find(node, frame) if find else UNKNOWN


def _name(node: ast.Name, frame: Frame) -> Any:
    if node.id in frame.names:
        return frame.names[node.id]
    return frame.scope.get(node.id, getattr(builtins, node.id, UNKNOWN))


def _attribute(node: ast.Attribute, frame: Frame) -> Any:
    if isinstance(node.value, ast.Name) and node.value.id == "self" and frame.names.get("self") is UNKNOWN:
        if node.attr in frame.own:
            return frame.own[node.attr]
        method = frame.cls and getattr(frame.cls, node.attr, None)
        return Method(frame.cls, node.attr) if callable(method) and frame.cls else UNKNOWN
    owner = value_of(node.value, frame)
    if isinstance(owner, Part):
        return Method(owner.cls, node.attr) if callable(getattr(owner.cls, node.attr, None)) else UNKNOWN
    return UNKNOWN if owner is UNKNOWN or isinstance(owner, Opaque) else getattr(owner, node.attr, UNKNOWN)


def _compare(node: ast.Compare, frame: Frame) -> Any:
    values = [value_of(each, frame) for each in (node.left, *node.comparators)]
    if isinstance(node.ops[0], ast.Is | ast.IsNot) and len(values) == 2 and values[1] is None and exists(values[0]):
        return isinstance(node.ops[0], ast.IsNot)
    if isinstance(node.ops[0], ast.In) and values[1] == {}:
        return False
    if UNKNOWN in values or any(isinstance(value, Opaque) for value in values):
        return UNKNOWN
    return all(COMPARE[type(op)](a, b) for op, a, b in zip(node.ops, values, values[1:]))


def exists(value: Any) -> bool:
    """Whether it is known to be something other than None."""
    return value is not UNKNOWN and value is not None


def _bool(node: ast.BoolOp, frame: Frame) -> Any:
    ends = isinstance(node.op, ast.Or)  # the truth that decides
    values = [value_of(each, frame) for each in node.values]
    values = [UNKNOWN if isinstance(value, Opaque) else value for value in values]
    for value in values:
        if value is not UNKNOWN and bool(value) is ends:
            return value if values[0] is value or not ends else UNKNOWN
        if value is UNKNOWN and ends:
            return UNKNOWN
    return UNKNOWN if UNKNOWN in values else values[-1]


def _binary(node: ast.BinOp, frame: Frame) -> Any:
    left, right = value_of(node.left, frame), value_of(node.right, frame)
    numbers = all(isinstance(side, int | float | str) for side in (left, right)) and type(node.op) in BINARY
    return BINARY[type(node.op)](left, right) if numbers else UNKNOWN


def _unary(node: ast.UnaryOp, frame: Frame) -> Any:
    value = value_of(node.operand, frame)
    if value is UNKNOWN or isinstance(value, Opaque):
        return UNKNOWN
    if isinstance(node.op, ast.Not):
        return not value
    return -value if isinstance(node.op, ast.USub) and isinstance(value, int | float) else UNKNOWN


def _tuple(node: ast.Tuple | ast.List, frame: Frame) -> Any:
    values = [value_of(each, frame) for each in node.elts]
    return UNKNOWN if UNKNOWN in values else tuple(values)


def _choice(node: ast.IfExp, frame: Frame) -> Any:
    test = value_of(node.test, frame)
    return (
        UNKNOWN if test is UNKNOWN or isinstance(test, Opaque) else value_of(node.body if test else node.orelse, frame)
    )


def _walrus(node: ast.NamedExpr, frame: Frame) -> Any:
    value = value_of(node.value, frame)
    frame.names[node.target.id] = value
    return value


def _subscript(node: ast.Subscript, frame: Frame) -> Any:
    owner, place = value_of(node.value, frame), value_of(node.slice, frame)
    if not isinstance(owner, dict | tuple | str) or place is UNKNOWN:
        return UNKNOWN
    try:
        return owner[place]
    except (KeyError, IndexError, TypeError):
        return UNKNOWN


def _call(node: ast.Call, frame: Frame) -> Any:
    """Of functions without effect, of words and of configs."""
    if ast.unparse(node.func) == "cache.visible" and value_of(node.args[-1], frame) is None:
        return None  # the ejected cache pads no rows
    target = value_of(node.func, frame)
    owner = getattr(target, "__self__", None)
    record = isinstance(target, type) and issubclass(target, tuple) and hasattr(target, "_fields")
    of_value = isinstance(owner, str | dict) or (owner is not None and is_dataclass(owner))
    try:
        if not (record or of_value or target in PURE or getattr(target, "__module__", "") == "dataclasses"):
            return UNKNOWN
    except TypeError:  # what has no hash
        return UNKNOWN
    values = [value_of(each, frame) for each in node.args]
    named = {str(each.arg): value_of(each.value, frame) for each in node.keywords}
    if any(value is UNKNOWN or isinstance(value, Opaque) for value in (*values, *named.values())) or "None" in named:
        return UNKNOWN
    return target(*values, **named)


def _mapping(node: ast.DictComp, frame: Frame) -> Any:
    """`{... for layer, block in enumerate(self.blocks)}` of the whole model, of which there is one."""
    [source] = node.generators
    blocks = re.fullmatch(r"enumerate\(self\.(\w+)\)", ast.unparse(source.iter))
    if blocks is None or frame.model is None or not isinstance(source.target, ast.Tuple):
        return UNKNOWN
    names = [ast.unparse(each) for each in source.target.elts]
    found = {}
    for pair in enumerate(getattr(frame.model, blocks[1])):
        inside = Frame(frame.scope, {**frame.names, **dict(zip(names, pair))}, frame.cls, frame.own, frame.model)
        found[value_of(node.key, inside)] = value_of(node.value, inside)
    return UNKNOWN if UNKNOWN in (*found, *found.values()) else found


def _list(node: ast.ListComp, frame: Frame) -> Any:
    """An empty one, where that is known."""
    return () if len(node.generators) == 1 and keeps_nothing(node.generators[0], frame) else UNKNOWN


def keeps_nothing(source: ast.comprehension, frame: Frame) -> bool:
    """Of `for x in (sinks,) if x is not None`: whether no x is left."""
    values = value_of(source.iter, frame)
    if values is UNKNOWN or not isinstance(source.target, ast.Name) or not source.ifs:
        return False
    for value in values:
        inside = Frame(frame.scope, {**frame.names, source.target.id: value}, frame.cls, frame.own, frame.model)
        if all(value_of(test, inside) is not False for test in source.ifs):
            return False
    return True


FINDERS: dict[type, Callable[[Any, Frame], Any]] = {
    ast.NamedExpr: _walrus,
    ast.Constant: lambda node, frame: node.value,
    ast.Name: _name, ast.Attribute: _attribute, ast.Compare: _compare, ast.BoolOp: _bool, ast.BinOp: _binary,
    ast.UnaryOp: _unary, ast.Tuple: _tuple, ast.IfExp: _choice, ast.Subscript: _subscript,
    ast.Call: _call, ast.DictComp: _mapping, ast.ListComp: _list,
}  # fmt: skip
