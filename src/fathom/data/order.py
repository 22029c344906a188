"""In which order windows are visited where there are too many to shuffle in memory, and how several texts take turns.

A Feistel network permutes the numbers below a power of four with a key; a number that leaves the range is sent through
it again until it is inside (Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains"). Neither keeps anything.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

LARGE = 1 << 22  # windows: up to here an epoch's order is an array, of 32 MiB
ROUNDS = 6
MASK = (1 << 64) - 1


class Shuffle:
    """`offset + factor * p` at place i, p being item i of a permutation of the numbers below n: computed, not kept."""

    def __init__(self, n: int, keys: Sequence[int], offset: int = 0, factor: int = 1) -> None:
        self.n, self.keys, self.offset, self.factor = n, keys, offset, factor
        self.half = max(1, ((n - 1).bit_length() + 1) // 2)  # bits
        self.low = (1 << self.half) - 1

    def __getitem__(self, place: int) -> int:
        place = self._network(place)
        while place >= self.n:
            place = self._network(place)
        return self.offset + self.factor * place

    def _network(self, place: int) -> int:
        left, right = place >> self.half, place & self.low
        for key in self.keys:
            left, right = right, left ^ (scattered(right ^ key) & self.low)
        return left << self.half | right


Order: TypeAlias = NDArray[np.int64] | Shuffle


def scattered(number: int) -> int:
    """64 bits in which each bit of the number counts (the finaliser of MurmurHash3, Appleby 2011)."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        number = ((number ^ number >> 33) * factor) & MASK
    return number ^ number >> 33


def deal(shares: Sequence[float], first: int, count: int) -> list[tuple[int, int]]:
    """(text, number of its visit) of `count` visits from number `first` on: each text has its share at every place.

    Visit k of a text with share w is due at the time (k + 1/2) / w; what is due first is visited first. By a time t
    about t visits are due, to within half of one for each text. shares: in sum 1.
    """
    slack = len(shares) / 2 + 1
    begin, end = max(0.0, first - slack), first + count + slack
    visits, before = list[tuple[float, int, int]](), 0
    for text, share in enumerate(shares):
        low, high = _due(share, begin), _due(share, end)
        before += low
        visits += [((k + 0.5) / share, text, k) for k in range(low, high)]
    skipped = first - before
    return [(text, k) for _, text, k in sorted(visits)[skipped : skipped + count]]


def _due(share: float, time: float) -> int:
    """How many visits of a text are due before a time, by the same arithmetic as the times themselves."""
    k = max(0, int(share * time) - 1)
    while (k + 0.5) / share < time:
        k += 1
    return k
