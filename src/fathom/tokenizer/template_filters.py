"""Filters of chat templates that few use: forms with %, groups of a list, rounding, escaping, joiners.

As in Jinja, and charged as those in `template_functions`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jinja2.filters import FILTERS as JINJA_FILTERS
from jinja2.filters import sync_do_slice

from fathom.errors import FathomError
from fathom.tokenizer import marked_text
from fathom.tokenizer.marked_text import SafeText
from fathom.tokenizer.template_functions import (
    OPERATORS,
    STEP,
    Function,
    charge,
    charging,
    numbers_only,
    safe,
    to_list,
    to_text,
)

FIELD = re.compile(r"%(?:\((?P<name>\w+)\))?(?P<width>0?\d{0,2}(?:\.\d{1,2})?)(?P<kind>.?)", re.DOTALL)
MAX_DIGITS = 20


def percent(form: str, given: Any) -> str:
    """`form % given` with %s, %d and %f, named or not, and widths of two digits."""
    text, speaker, parts, end = marked_text.unmarked(form), marked_text.speaker_in(form), list[str](), 0
    named = given if isinstance(given, Mapping) else {}
    values = list(given) if isinstance(given, tuple) else [given]
    places = 0
    for field in FIELD.finditer(text):
        parts.append(marked_text.mark(text[end : field.start()], speaker))
        end = field.end()
        if field["kind"] == "%":
            parts.append(marked_text.mark("%", speaker))
            continue
        if field["kind"] not in ("s", "d", "i", "f") or (field["name"] is None and places == len(values)):
            raise FathomError(f"it formats {field[0][:40]!r} in an unsupported way; expected %s, %d or %f, and values")
        value = values[places] if field["name"] is None else named[field["name"]]
        places += field["name"] is None
        plain = field["kind"] == "s" and not field["width"]
        parts.append(to_text(value) if plain else f"%{field['width']}{field['kind']}" % value)
    if not isinstance(given, Mapping) and places < len(values):
        raise FathomError("it formats more values than the text has places")
    return marked_text.join([*parts, marked_text.mark(text[end:], speaker)])


def modulo(left: Any, right: Any) -> Any:
    """The operator %: of texts, too."""
    return percent(left, right) if isinstance(left, str) else OPERATORS["%"](left, right)


def fill_percent(form: Any, *values: Any, **named: Any) -> str:
    """The filter `format`."""
    if values and named:
        raise FathomError("it formats values with and without names at once")
    return percent(to_text(form), named or values)


def escape(value: Any) -> SafeText:
    """For HTML, once."""
    if isinstance(value, SafeText):
        return value
    text = to_text(value)
    charge(6 * len(text))
    return safe(marked_text.escaped(text))


def batch(values: Iterable[Any], size: int, fill: Any = None) -> list[list[Any]]:
    """Lists of `size` entries each, the last one filled up."""
    charge(STEP * max(size, 0))
    return to_list(JINJA_FILTERS["batch"](to_list(values), size, fill))


def in_slices(values: Iterable[Any], count: int, fill: Any = None) -> list[list[Any]]:
    """`count` lists with all entries."""
    charge(STEP * max(count, 0))
    return to_list(sync_do_slice(to_list(values), count, fill))


def rounded(value: float, precision: int = 0, method: str = "common") -> float:
    if abs(precision) > MAX_DIGITS:
        raise FathomError(f"it rounds to {precision} digits; expected at most {MAX_DIGITS}")
    result: float = JINJA_FILTERS["round"](numbers_only(max)(value, value), precision, method)
    return result


def joiner(between: str = ", ") -> Callable[[], str]:
    """A function that gives nothing when it is first called, and `between` later."""
    calls = []

    def call() -> str:
        calls.append(1)
        return between if len(calls) > 1 else ""

    return call


FILTERS: dict[str, Function] = {
    "format": fill_percent,
    "e": escape,
    "escape": escape,
    "batch": batch,
    "slice": in_slices,
    "round": rounded,
    "abs": charging(abs),
    "groupby": charging(JINJA_FILTERS["groupby"]),
    "wordcount": charging(JINJA_FILTERS["wordcount"]),
}
TESTS: dict[str, Function] = {
    "upper": lambda value: to_text(value).isupper(),
    "lower": lambda value: to_text(value).islower(),
}
