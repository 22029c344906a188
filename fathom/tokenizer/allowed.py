"""What a chat template may do to values: methods, filters, tests and operators, each paid before it makes anything.

Texts keep their voices. What published templates use is here; what could make much from little (widths, formats) is
not. Does not know how a template is run.
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
from typing import Any

from jinja2.filters import FILTERS as JINJA
from jinja2.tests import TESTS as JINJA_TESTS

from fathom.errors import FathomError
from fathom.tokenizer import marked_text

# What a text of unknown origin may cost when it runs: a purse from which every step and every value is paid.
#
# The purse bounds memory, and with it most of the time; a deadline in the thread's own processor time bounds the
# rest, however busy the machine is. Knows nothing of what runs.

STEP = 64  # what a step, or one entry of a list, costs; a character costs 1
SECONDS = 1.0
DEEPEST = 64  # lists within lists
LARGEST = 1 << 64  # whole numbers beyond this grow without end


class Meter:
    """A purse and a deadline."""

    def __init__(self, purse: int, seconds: float = SECONDS) -> None:
        self.left, self.end = purse, time.thread_time() + seconds

    def charge(self, price: int) -> None:
        self.left -= STEP + price
        if self.left < 0:
            raise FathomError("it makes far more than a conversation has: it would fill the memory")
        if time.thread_time() > self.end:
            raise FathomError(f"it takes longer than {SECONDS:g} s")


METER: ContextVar[Meter] = ContextVar("meter")


@contextmanager
def metering(purse: int) -> Iterator[None]:
    """All that is charged within is paid from a purse of this size."""
    token = METER.set(Meter(purse))
    try:
        yield
    finally:
        METER.reset(token)


def charge(price: int = 0) -> None:
    """Pay for one step and `price`; FathomError when nothing is left, or no time."""
    METER.get().charge(price)


def weight(value: object, most: int | None = None) -> int:
    """What it costs to look at all of a value: its characters, and a step for each entry, however often it is there."""
    most = METER.get().left if most is None else most
    total, waiting = 0, [(value, 0)]
    while waiting and total <= most:
        value, depth = waiting.pop()
        entries: list[object] = []
        match value:
            case str():
                total += len(value)
            case list() | tuple():
                entries = list(value)
            case dict():
                entries = [*value.keys(), *value.values()]
            case int() if abs(value) >= LARGEST:
                raise FathomError(f"it calculates with a number of {value.bit_length()} bits; expected at most 64")
        if entries and depth == DEEPEST:
            raise FathomError(f"it nests lists deeper than {DEEPEST}")
        total += STEP * len(entries)
        waiting += [(entry, depth + 1) for entry in entries]
    return total


Function = Callable[..., Any]
TIME = re.compile(r"(?:[^%]|%-?[a-zA-Z%])*")  # without widths
WIDEST = 16  # of an indent


def made(value: Any) -> Any:
    """A new value, or one on its way to becoming text: all that is in it is paid."""
    charge(weight(value))
    return value


def compared(value: Any) -> Any:
    """A value on its way to being compared: looking is cheaper than making."""
    charge(weight(value) // STEP)
    return value


def joined(*values: Any) -> str:
    """`a ~ b`: the values as one text."""
    return marked_text.join([str(made(value)) for value in values])


def span(*ends: int) -> range:
    """`range`, paid as the list it stands for."""
    numbers = range(*ends)
    charge(STEP * len(numbers))
    return numbers


def now(form: str) -> str:
    """The local time, as Hugging Face's `strftime_now`."""
    if len(form) > 100 or not TIME.fullmatch(form):
        raise FathomError(f"it asks for the time as {form[:100]!r}; expected a short form such as '%d %b %Y'")
    return datetime.now().strftime(form)


def priced(function: Function) -> Function:
    """The same function, after all its arguments were paid."""

    @wraps(function)  # with the mark by which Jinja passes its context
    def pay(*arguments: Any, **named: Any) -> Any:
        charge(sum(weight(value) for value in (*arguments, *named.values())))
        return function(*arguments, **named)

    return pay


# Texts.


def split(text: str, separator: str | None = None, maxsplit: int = -1) -> list[str]:
    charge(STEP * (len(text) if separator is None else text.count(separator)))
    return marked_text.split(text, separator, maxsplit)


def rsplit(text: str, separator: str | None = None, maxsplit: int = -1) -> list[str]:
    charge(STEP * (len(text) if separator is None else text.count(separator)))
    return marked_text.rsplit(text, separator, maxsplit)


def splitlines(text: str, keepends: bool = False) -> list[str]:
    charge(STEP * len(text))
    return marked_text.splitlines(text, keepends)


def replace(text: Any, old: str, new: str, count: int | None = None) -> str:
    text = str(made(text))
    charge(text.count(old) * len(new))
    return marked_text.replace(text, old, new, -1 if count is None else count)


def join(values: Iterable[Any], between: str = "") -> str:
    texts = [str(made(value)) for value in values]
    charge(len(between) * len(texts))
    return marked_text.join(texts, between)


def indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    if (len(width) if isinstance(width, str) else width) > WIDEST:
        raise FathomError(f"it indents by more than {WIDEST}")
    margin = width if isinstance(width, str) else " " * width
    lines = splitlines(joined(text, "\n"))
    charge(len(margin) * len(lines))
    wanted = [(line or blank) if place else first for place, line in enumerate(lines)]
    return marked_text.join(
        [marked_text.join([margin, line]) if new else line for new, line in zip(wanted, lines)], "\n"
    )


def to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **form: Any) -> str:
    """As Hugging Face's templates expect it: nothing is escaped for HTML. `form`: separators, sort_keys."""
    if form.keys() - {"separators", "sort_keys"} or len(str(form)) > 100 or (indent or 0) > WIDEST:
        raise FathomError(f"it asks for JSON with an indent over {WIDEST} or in an unknown form")
    charge(weight(value) * (6 + (indent or 0)))  # \u0000 for a character; an indent for each list around an entry
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **form)


def in_other_letters(change: Callable[[str], str]) -> Function:
    return lambda text: marked_text.like(str(text), change(str(text)))


# Lists and numbers.


def listed(values: Any) -> list[Any]:
    """`list(values)`, each entry paid as it comes."""
    found: list[Any] = []
    for value in values:
        charge()
        found.append(value)
    return made(found)


def backwards(values: Any) -> Any:
    return values[::-1] if isinstance(values, str) else listed(values)[::-1]


def items(values: Any) -> list[tuple[Any, Any]]:
    return made(list(values.items())) if isinstance(values, Mapping) else []


def add(left: Any, right: Any) -> Any:
    return joined(left, right) if isinstance(left, str) and isinstance(right, str) else made(left + right)


def times(left: Any, right: Any) -> Any:
    for value, count in ((left, right), (right, left)):
        if isinstance(count, int) and isinstance(value, str | list | tuple):
            charge(weight(value) * max(count, 0))
    return made(left * right)


def numbers_only(calculate: Function) -> Function:
    """The operator, but not for texts: `%` makes much from little."""

    def checked(left: Any, right: Any) -> Any:
        if not isinstance(left, int | float) or not isinstance(right, int | float):
            raise FathomError(f"it calculates with {type(left).__name__} and {type(right).__name__}; expected numbers")
        return made(calculate(left, right))

    return checked


def power(base: float, exponent: float) -> float:
    if abs(base) > 1000 or abs(exponent) > 6:
        raise FathomError(f"it calculates {base} ** {exponent}; expected at most 1000 ** 6")
    return float(base**exponent) if exponent < 0 else base**exponent


OPERATORS: dict[str, Function] = {
    "+": add,
    "-": numbers_only(operator.sub),
    "*": times,
    "/": numbers_only(operator.truediv),
    "//": numbers_only(operator.floordiv),
    "%": numbers_only(operator.mod),
    "**": numbers_only(power),
}
PLAIN = ["startswith", "endswith", "find", "rfind", "index", "rindex", "count"]  # what they give is no text
PLAIN += ["isalnum", "isalpha", "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "isupper"]
LETTERS = ("upper", "lower", "title", "capitalize", "casefold", "swapcase")
CUTS = ("strip", "lstrip", "rstrip", "removeprefix", "removesuffix", "partition", "rpartition")
TEXT: dict[str, Function] = {
    **{name: priced(getattr(str, name)) for name in PLAIN},
    **{name: priced(in_other_letters(getattr(str, name))) for name in LETTERS},
    **{name: priced(getattr(marked_text, name)) for name in CUTS},
    "split": priced(split),
    "rsplit": priced(rsplit),
    "splitlines": priced(splitlines),
    "replace": priced(replace),
    "join": lambda between, values: join(values, between),
}
METHODS: dict[type, dict[str, Function]] = {
    str: TEXT,
    dict: {"get": dict.get, "items": items, "keys": listed, "values": lambda of: made(list(of.values()))},
    list: {"index": priced(list.index), "count": priced(list.count)},
}
FILTERS: dict[str, Function] = {
    **{name: priced(in_other_letters(getattr(str, name))) for name in ("upper", "lower", "capitalize")},
    **{name: priced(JINJA[name]) for name in ("default", "d", "first", "last", "length", "count", "int", "float")},
    **{name: JINJA[name] for name in ("map", "select", "reject", "selectattr", "rejectattr")},  # a step at a time
    "title": priced(in_other_letters(JINJA["title"])),
    "trim": priced(lambda text, characters=None: marked_text.strip(str(text), characters)),
    "string": lambda value: str(made(value)),
    "safe": lambda value: value,  # nothing is escaped
    "replace": replace,
    "join": join,
    "indent": indent,
    "tojson": to_json,
    "list": listed,
    "items": items,
    "reverse": backwards,
}
TESTS: dict[str, Function] = {
    name: priced(test)
    for name, test in dict[str, Any](JINJA_TESTS).items()
    if name not in ("upper", "lower")  # those make text
}


def method(value: Any, name: str) -> Function | None:
    """A method that a template may use, ready to be called."""
    for kind, methods in METHODS.items():
        if isinstance(value, kind) and name in methods:
            return partial(methods[name], value)
    return None
