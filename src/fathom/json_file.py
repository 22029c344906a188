"""JSON objects of others, their fields checked by type; errors name the file and the field.

Stricter than `fields`, which reads what people type: here "12" is no number and true is not 1.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from reprlib import Repr
from typing import Any, TypeVar

from fathom.errors import FathomError

T = TypeVar("T", int, float, bool, str)

LIMIT = 1 << 21  # bytes of a configuration; values of a few bytes each take twenty times as much as objects of Python
DEEPEST = 50  # lists in lists
LARGEST = (1 << 31) - 1  # of whole numbers: what counts something in a model fits 32 bits
REPR = Repr()
REPR.maxstring = REPR.maxother = 80
KIND = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}


def read_object(path: Path, limit: int = LIMIT) -> dict[str, Any]:
    """The object in a JSON file. FathomError: it cannot be read, is no JSON, or is larger than `limit` bytes."""
    try:
        size = path.stat().st_size
        if size > limit:
            raise FathomError(f"{path} has {size} bytes; expected a JSON file of at most {limit}")
        return parse_object(path.read_bytes(), str(path))
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise FathomError(f"{path} cannot be read ({reason}); expected a JSON file") from None


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """The object in these bytes; NaN and infinities, which JSON does not have, are refused."""
    try:
        values = json.loads(data.decode("utf-8-sig"), parse_constant=_no_constant)
        if isinstance(values, dict):
            _shallow(values)
            return values
    except (ValueError, RecursionError) as problem:
        raise FathomError(f"{where} is not JSON ({str(problem)[:200]}); the file is damaged") from None
    raise FathomError(f"{where} holds {type(values).__name__}; expected an object with fields")


def _shallow(values: dict[str, Any]) -> None:
    """ValueError for values that are nested too deeply to be compared or printed."""
    level: list[Any] = [values]
    for _ in range(DEEPEST):
        inside = [value.values() if isinstance(value, dict) else value for value in level]
        level = [value for values in inside for value in values if isinstance(value, dict | list)]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {DEEPEST}")


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")


def short(value: object, length: int = 80) -> str:
    """A value from a file as errors show it, cut to a length."""
    text = REPR.repr(value)  # looks only a few levels deep
    return text if len(text) <= length else f"{text[:length]}..."


def field(values: Mapping[str, Any], name: str, kind: type[T], where: str, default: T | None = None) -> T:
    """The field as int (of 32 bits), float (finite), bool or str. A missing or null one is `default`."""
    value = values.get(name)
    if value is None and default is not None:
        return default
    if value is None:
        raise FathomError(f"{where}: {name} is missing; expected {KIND[kind]}")
    if kind is float and type(value) is int and abs(value) <= LARGEST:
        value = float(value)
    if type(value) is not kind or not _bounded(value):
        raise FathomError(f"{where}: {name} is {short(value)}; expected {KIND[kind]}")
    return value


def _bounded(value: Any) -> bool:
    """Whether a value is no number, or one that a model can use."""
    return abs(value) <= LARGEST if isinstance(value, int) else not isinstance(value, float) or math.isfinite(value)
