"""JSON of a request, read strictly: what two readers could take for two things is refused.

No key twice in an object, no NaN and no number that is infinite, no half of a character, no U+0000, and no value deeper
than any request needs.
"""

import json
import math
from collections.abc import Iterator
from typing import Any, NoReturn

from fathom.errors import FathomError

DEEPEST = 100  # values within values: schemas of tools need a few dozen


def read_json(body: bytes) -> Any:
    """The value of a body in UTF-8. FathomError: it is no JSON, or says something twice or nothing at all."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise FathomError(f"the body is not UTF-8 at byte {problem.start}") from None
    try:
        value = json.loads(text, object_pairs_hook=single, parse_constant=no_number, parse_float=finite)
    except RecursionError:
        raise FathomError(f"the body is nested deeper than {DEEPEST} values") from None
    except ValueError as problem:
        raise FathomError(f"the body is not JSON: {problem}") from None
    check(value)
    return value


def single(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object. FathomError: it has a key twice."""
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise FathomError(
            f"the key {next(key for key in keys if keys.count(key) > 1)!r:.80} stands twice in one object"
        )
    return made


def no_number(word: str) -> NoReturn:
    raise FathomError(f"the body holds {word}, which is no JSON; leave the field out")


def finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise FathomError(f"the number {text[:40]} is too large")
    return number


def check(value: Any) -> None:
    """FathomError: the value is too deep, or a text in it is none."""
    level, depth = [value], 0
    while level:
        if depth > DEEPEST:
            raise FathomError(f"the body is nested deeper than {DEEPEST} values")
        for text in level:
            if isinstance(text, str):
                check_text(text)
        level, depth = [inner for outer in level for inner in inside(outer)], depth + 1


def inside(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def check_text(text: str) -> None:
    if "\0" in text:
        raise FathomError("a text holds U+0000; leave it out")
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise FathomError("a text holds half a surrogate pair; expected text that is valid Unicode")
