"""Dataclasses from plain values: the one way YAML, JSON and the command line become options.

Unknown fields, wrong types and wrong choices end in one line with near matches.
"""

import dataclasses
import re
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from fathom.errors import FathomError, near

T = TypeVar("T")


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """An instance of the dataclass `cls`; `where` names the source of the values in errors (a file, an option)."""
    hints = get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    fields = {}
    upgraded = getattr(cls, "upgraded", lambda values: values)  # how an older file's fields are called now
    for key, value in upgraded(_mapping(values, where)).items():
        name = str(key).replace("-", "_")
        if name not in names:
            raise FathomError(
                f"{where}: unknown field {key!r}{near(name, names, then='fields')} are {', '.join(names)}"
            )
        fields[name] = convert(hints[name], value, f"{where}: {name}")
    required = {f.name for f in dataclasses.fields(cls) if _required(f)}  # type: ignore[arg-type]
    if missing := required - set(fields):
        raise FathomError(f"{where}: missing {', '.join(sorted(missing))}")
    return cls(**fields)


def _required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def convert(hint: Any, value: Any, where: str) -> Any:
    """`value`, possibly text from a command line, as the type `hint` asks for; FathomError when it cannot be."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if type(None) in parts and (value is None or str(value).lower() in ("none", "null")):
            return None
        choices, *others = [part for part in parts if part is not type(None)]
        words = get_args(choices) if get_origin(choices) is Literal else ()
        if others and (not isinstance(value, str) or (value not in words and re.search("[:=]", value))):
            return convert(others[0], value, where)
        return convert(choices, value, where)
    if origin is Literal:
        value = {True: "on", False: "off"}[value] if isinstance(value, bool) else value  # YAML reads on and off so
        if value not in parts and {"on", "off"} <= set(parts) and str(value).lower() in BOOLEANS:
            value = "on" if BOOLEANS[str(value).lower()] else "off"
        if value not in parts:
            known = [str(part) for part in parts]
            raise FathomError(f"{where} is {value!r}{near(str(value), known, then='choose')} one of {', '.join(known)}")
        return value
    if origin is tuple:
        items = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
        return tuple(convert(parts[0], item, where) for item in items)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        values = _in_short(hint, value, where) if isinstance(value, str) else _mapping(value, where)
        return build(hint, values, where)  # type: ignore[arg-type]
    return _scalar(hint, value, where)


def _in_short(cls: Any, text: str, where: str) -> Mapping[str, Any]:
    """A dataclass as the command line gives it: `yarn:4`, fields in their order, or `theta=500000,scaling=yarn:4`."""
    names = [field.name for field in dataclasses.fields(cls)]
    required = [field.name for field in dataclasses.fields(cls) if _required(field)]
    if "=" in text:
        pairs = [part.partition("=") for part in text.split(",")]
        return {name.strip(): value for name, _, value in pairs}
    parts = text.split(":")
    if not required or not len(required) <= len(parts) <= len(names):
        expected = ":".join(name.upper() for name in required) or f"NAME=VALUE,... of {', '.join(names)}"
        raise FathomError(f"{where} is {text!r}; expected {expected}")
    return dict(zip(names, parts))


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise FathomError(f"{where} is {value!r}; expected fields with values")
    return value


BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _scalar(hint: Any, value: Any, where: str) -> Any:
    problem = FathomError(f"{where} is {value!r}; expected {KIND.get(hint, str(hint))}")
    if hint is bool:
        if str(value).lower() not in BOOLEANS:
            raise problem
        return BOOLEANS[str(value).lower()]
    if isinstance(value, bool) or (hint is not str and not isinstance(value, int | float | str)):
        raise problem
    try:
        number = hint(value)
    except (ValueError, OverflowError):
        raise problem from None
    if hint is int and isinstance(value, float) and value != number:
        raise problem
    return number


KIND = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def plain(value: Any) -> Any:
    """A dataclass as the plain values that `build` reads back: what is written to YAML and JSON."""
    return dataclasses.asdict(value)
