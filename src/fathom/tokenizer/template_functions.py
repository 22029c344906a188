"""What a chat template may do to values: methods, filters, tests and operators, each charged before it runs.

All that published templates use is here; what makes much from little (widths, formats) is not. Texts keep the speakers
of their characters. A budget bounds memory and most of the time; a deadline in processor time of the thread bounds the
rest, however busy the machine is.
"""

import json
import operator
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import partial, wraps
from string import Formatter
from typing import Any

from jinja2.filters import FILTERS as JINJA_FILTERS
from jinja2.tests import TESTS as JINJA_TESTS

from fathom.errors import FathomError
from fathom.tokenizer import marked_text
from fathom.tokenizer.marked_text import SafeText

STEP = 64  # cost of a step, or of an entry of a list; a character costs 1
MAX_SECONDS = 1.0
MAX_DEPTH = 64  # lists within lists
MAX_INTEGER = 1 << 64  # products of larger ones grow without end
MAX_INDENT = 16
TIME_FORMAT = re.compile(r"(?:[^%]|%-?[a-zA-Z%])*")  # without widths
Function = Callable[..., Any]


class Meter:
    """What is left of a budget, and a deadline."""

    def __init__(self, budget: int) -> None:
        self.left, self.deadline = budget, time.thread_time() + MAX_SECONDS

    def charge(self, cost: int) -> None:
        self.left -= STEP + cost
        if self.left < 0:
            raise FathomError("it creates far more text than a conversation holds, and would fill the memory")
        if time.thread_time() > self.deadline:
            raise FathomError(f"it takes longer than {MAX_SECONDS:g} s")


METER: ContextVar[Meter] = ContextVar("meter")


@contextmanager
def metering(budget: int) -> Iterator[None]:
    """All that is charged within is taken from a budget of this size."""
    token = METER.set(Meter(budget))
    try:
        yield
    finally:
        METER.reset(token)


def charge(cost: int = 0) -> None:
    """Charge a step and `cost`. FathomError: no budget is left, or no time."""
    METER.get().charge(cost)


def size_of(value: object, limit: int | None = None) -> int:
    """The cost of reading a value: its characters, and a step for each entry, however often it occurs."""
    limit = METER.get().left if limit is None else limit
    total, waiting = 0, [(value, 0)]
    while waiting and total <= limit:
        value, depth = waiting.pop()
        entries: list[object] = []
        match value:
            case str():
                total += len(value)
            case list() | tuple():
                entries = list(value)
            case dict():
                entries = [*value.keys(), *value.values()]
            case int() if abs(value) >= MAX_INTEGER:
                raise FathomError(f"it calculates with a number of {value.bit_length()} bits; expected at most 64")
        if entries and depth == MAX_DEPTH:
            raise FathomError(f"it nests lists deeper than {MAX_DEPTH}")
        total += STEP * len(entries)
        waiting += [(entry, depth + 1) for entry in entries]
    return total


def charged(value: Any) -> Any:
    """The value itself, after its size was charged: it is new, or about to become text."""
    charge(size_of(value))
    return value


def charged_operand(value: Any) -> Any:
    """The value itself, on its way into a comparison: reading is cheaper than creating."""
    charge(size_of(value) // STEP)
    return value


def charging(function: Function) -> Function:
    """The same function, which charges all its arguments first."""

    @wraps(function)  # with the mark by which Jinja passes its context
    def call(*arguments: Any, **named: Any) -> Any:
        charge(sum(size_of(value) for value in (*arguments, *named.values())))
        return function(*arguments, **named)

    return call


def to_text(value: Any) -> str:
    """`str(value)`; the text of a list or an object has the speaker of what is said in it."""
    text = str(charged(value))
    speaker = 0 if isinstance(value, str) else marked_text.speaker_in(value)
    return marked_text.mark(text, speaker) if speaker else text


def concatenate(*values: Any) -> str:
    """`a ~ b`: the values as one text."""
    return marked_text.join(map(to_text, values))


def charged_range(*ends: int) -> range:
    """`range`, charged as if it were a list."""
    numbers = range(*ends)
    charge(STEP * len(numbers))
    return numbers


def strftime_now(form: str) -> str:
    """The local time, as Hugging Face's function of this name."""
    if len(form) > 100 or not TIME_FORMAT.fullmatch(form):
        raise FathomError(f"it formats the time as {form[:100]!r}; expected a short form such as '%d %b %Y'")
    return datetime.now().strftime(form)


# Texts.


def splitting(split: Function) -> Function:
    """`split` or `rsplit`, which charges the parts first."""

    def call(text: str, separator: str | None = None, maxsplit: int = -1) -> list[str]:
        charge(STEP * (len(text) if separator is None else text.count(separator)))
        return split(text, separator, maxsplit)

    return charging(call)


def splitlines(text: str, keepends: bool = False) -> list[str]:
    charge(STEP * len(text))
    return marked_text.splitlines(text, keepends)


def replace(text: Any, old: str, new: str, count: int | None = None) -> str:
    text = to_text(text)
    charge(text.count(old) * len(new))
    return marked_text.replace(text, old, new, -1 if count is None else count)


def join(values: Iterable[Any], between: str = "") -> str:
    texts = [to_text(value) for value in values]
    charge(len(between) * len(texts))
    return marked_text.join(texts, between)


def indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    if (len(width) if isinstance(width, str) else width) > MAX_INDENT:
        raise FathomError(f"it indents by more than {MAX_INDENT}")
    margin = width if isinstance(width, str) else " " * width
    lines = splitlines(concatenate(text, "\n"))
    charge(len(margin) * len(lines))
    margins = [margin if ((line or blank) if place else first) else "" for place, line in enumerate(lines)]
    return marked_text.join([marked_text.join(pair) for pair in zip(margins, lines)], "\n")


def to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **form: Any) -> str:
    """As Hugging Face's templates expect it: nothing is escaped for HTML. `form`: separators, sort_keys."""
    if form.keys() - {"separators", "sort_keys"} or len(str(form)) > 100 or (indent or 0) > MAX_INDENT:
        raise FathomError(f"it writes JSON with an indent over {MAX_INDENT} or in an unsupported form")
    charge(size_of(value) * (6 + (indent or 0)))  # \u0000 for a character; an indent for each list around an entry
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **form)
    return marked_text.mark(text, speaker) if (speaker := marked_text.speaker_in(value)) else text


def fill_in(form: str, *values: Any, **named: Any) -> str:
    """`str.format`, without attributes, widths and conversions."""
    parts, speaker, place = list[str](), marked_text.speaker_in(form), 0
    for literal, name, width, conversion in Formatter().parse(marked_text.unmarked(form)):
        parts.append(marked_text.mark(literal, speaker))
        if name is None:
            continue
        if width or conversion or not re.fullmatch(r"\w*", name):
            raise FathomError(f"it formats {name[:40]!r} in an unsupported way; expected plain fields such as {{}}")
        number = place if not name else int(name) if name.isdecimal() else None
        parts.append(to_text(named[name] if number is None else values[number]))
        place += not name
    return marked_text.join(parts)


def changing_case(change: Callable[[str], str]) -> Function:
    return charging(lambda text: marked_text.recased(str(text), change(str(text))))


# Lists and numbers.


def to_list(values: Any) -> list[Any]:
    """`list(values)`, each entry charged as it comes."""
    entries: list[Any] = []
    for value in values:
        charge()
        entries.append(value)
    return charged(entries)


def reverse(values: Any) -> Any:
    return values[::-1] if isinstance(values, str) else to_list(values)[::-1]


def items(values: Any) -> list[tuple[Any, Any]]:
    return charged(list(values.items())) if isinstance(values, Mapping) else []


def add(left: Any, right: Any) -> Any:
    if not isinstance(left, str) or not isinstance(right, str):
        return charged(left + right)
    if not isinstance(left, SafeText) and not isinstance(right, SafeText):
        return concatenate(left, right)
    return safe(concatenate(marked_text.escaped(charged(left)), marked_text.escaped(charged(right))))


def safe(value: Any) -> SafeText:
    text = to_text(value)
    return SafeText(text, marked_text.speakers_of(text))


def multiply(left: Any, right: Any) -> Any:
    for value, count in ((left, right), (right, left)):
        if isinstance(count, int) and isinstance(value, str | list | tuple):
            charge(size_of(value) * max(count, 0))
    return charged(left * right)


def numbers_only(calculate: Function) -> Function:
    """The operator, but not for texts: their `%` makes much from little."""

    def checked(left: Any, right: Any) -> Any:
        if not isinstance(left, int | float) or not isinstance(right, int | float):
            raise FathomError(f"it calculates with {type(left).__name__} and {type(right).__name__}; expected numbers")
        return charged(calculate(left, right))

    return checked


def power(base: float, exponent: float) -> float:
    if abs(base) > 1000 or abs(exponent) > 6:
        raise FathomError(f"it calculates {base} ** {exponent}; expected at most 1000 ** 6")
    return float(base**exponent) if exponent < 0 else base**exponent


OPERATORS: dict[str, Function] = {
    "+": add,
    "-": numbers_only(operator.sub),
    "*": multiply,
    "/": numbers_only(operator.truediv),
    "//": numbers_only(operator.floordiv),
    "%": numbers_only(operator.mod),
    "**": numbers_only(power),
}
QUERIES = ["startswith", "endswith", "find", "rfind", "index", "rindex", "count"]  # methods that return no text
QUERIES += ["isalnum", "isalpha", "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "isupper"]
CASES = ("upper", "lower", "title", "capitalize", "casefold", "swapcase")
CUTS = ("strip", "lstrip", "rstrip", "removeprefix", "removesuffix", "partition", "rpartition")
METHODS: dict[type, dict[str, Function]] = {
    str: {
        **{name: charging(getattr(str, name)) for name in QUERIES},
        **{name: changing_case(getattr(str, name)) for name in CASES},
        **{name: charging(getattr(marked_text, name)) for name in CUTS},
        "split": splitting(marked_text.split),
        "rsplit": splitting(marked_text.rsplit),
        "splitlines": charging(splitlines),
        "replace": charging(replace),
        "format": charging(fill_in),
        "join": lambda between, values: join(values, between),
    },
    dict: {"get": dict.get, "items": items, "keys": to_list, "values": lambda of: charged(list(of.values()))},
    list: {"index": charging(list.index), "count": charging(list.count)},
}
FILTERS: dict[str, Function] = {
    **{name: changing_case(getattr(str, name)) for name in ("upper", "lower", "capitalize")},
    **{name: charging(JINJA_FILTERS[name]) for name in ("default", "d", "first", "last")},
    **{name: charging(JINJA_FILTERS[name]) for name in ("length", "count", "int", "float")},
    **{name: charging(JINJA_FILTERS[name]) for name in ("dictsort", "sort", "unique", "min", "max", "sum")},
    **{name: JINJA_FILTERS[name] for name in ("map", "select", "reject", "selectattr", "rejectattr")},  # are lazy
    "title": changing_case(JINJA_FILTERS["title"]),
    "trim": lambda text, characters=None: marked_text.strip(to_text(text), characters),
    "string": to_text,
    "safe": safe,
    "replace": replace,
    "join": join,
    "indent": indent,
    "tojson": to_json,
    "list": to_list,
    "items": items,
    "reverse": reverse,
}
TESTS: dict[str, Function] = {
    name: charging(test)
    for name, test in dict[str, Any](JINJA_TESTS).items()
    if name not in ("upper", "lower")  # those create text
}


def method(value: Any, name: str) -> Function | None:
    """A method that a template may use, ready to be called."""
    for kind, methods in METHODS.items():
        if isinstance(value, kind) and name in methods:
            return partial(methods[name], value)
    return None
