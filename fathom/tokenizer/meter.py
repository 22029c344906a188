"""What a text of unknown origin may cost when it runs: a purse from which every step and every value is paid.

The purse bounds memory, and with it most of the time; a deadline in the thread's own processor time bounds the rest,
however busy the machine is. Knows nothing of what runs.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from fathom.errors import FathomError

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
