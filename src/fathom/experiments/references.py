"""Baselines by counting, on the same validation targets: uniform (ln V), unigram and bigram.

The bigram has additive smoothing, chosen by leave-one-out on the training text. Only pairs that occur are stored.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fathom.data.token_file import Tokens

BLOCK = 1 << 22
SMOOTHING = tuple(10.0 ** (power / 4) for power in range(-16, 9))  # 0.0001 to 100

Counts = tuple[NDArray[np.int64], NDArray[np.int64]]  # ascending codes that occur, and their counts


@dataclass(frozen=True)
class References:
    """Nats per validation token of the three baselines."""

    uniform: float
    unigram: float
    bigram: float

    def named(self) -> dict[str, float]:
        """By their names in plots and tables."""
        return {"ln V": self.uniform, "unigram entropy": self.unigram, "count bigram": self.bigram}


def references(train: Tokens, validation: Iterable[Tensor], vocab_size: int) -> References:
    """Counted on all of `train`, measured on `validation`: chunks of windows (b, t + 1)."""
    windows = np.concatenate([chunk.numpy() for chunk in validation])
    left, right = windows[:, :-1].ravel(), windows[:, 1:].ravel()
    singles, pairs = count(train, singles_of), count(train, lambda tokens: pairs_of(tokens, vocab_size))
    totals = np.zeros(vocab_size, np.int64)
    np.add.at(totals, pairs[0] // vocab_size, pairs[1])  # how often each token is followed by another
    a = best_smoothing(pairs, totals, vocab_size)
    seen = look_up(pairs, left * vocab_size + right)
    bigram = -np.log((seen + a) / (totals[left] + a * vocab_size)).mean()
    unigram = -np.log((look_up(singles, right) + 1) / (singles[1].sum() + vocab_size)).mean()
    return References(math.log(vocab_size), float(unigram), float(bigram))


def singles_of(tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    return tokens[:-1]


def pairs_of(tokens: NDArray[np.int64], vocab_size: int) -> NDArray[np.int64]:
    """Each token with the one after it, as one number."""
    return tokens[:-1] * vocab_size + tokens[1:]


def count(tokens: Tokens, codes: Callable[[NDArray[np.int64]], NDArray[np.int64]]) -> Counts:
    """Counts of each code, block by block; blocks overlap by one token, so that no pair is lost."""
    known, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for start in range(0, len(tokens) - 1, BLOCK):
        new, times = np.unique(codes(tokens[start : start + BLOCK + 1].astype(np.int64)), return_counts=True)
        known, place = np.unique(np.concatenate([known, new]), return_inverse=True)
        counts = np.bincount(place, np.concatenate([counts, times])).astype(np.int64)
    return known, counts


def look_up(counts: Counts, codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The counts of these codes, 0 for those that do not occur."""
    known, times = counts
    place = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    return np.where(known[place] == codes, times[place], 0)


def best_smoothing(pairs: Counts, totals: NDArray[np.int64], vocab_size: int) -> float:
    """The `a` for which (count + a) / (total + a V), with the predicted token left out, has the least loss."""
    codes, times = pairs
    total = totals[codes // vocab_size]

    def loss(a: float) -> float:
        return -float((times * np.log((times - 1 + a) / (total - 1 + a * vocab_size))).sum())

    return min(SMOOTHING, key=loss)
