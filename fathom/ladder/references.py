"""What counting alone predicts on the same validation targets: a model that is worth its name must do better.

uniform: ln V. unigram: how often each token is. bigram: how often each follows each, with additive smoothing chosen
by leaving one out of the training text. Does not train, and holds only the pairs that occur.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fathom.tokenizer.protocol import TokenArray

BLOCK = 1 << 22
SMOOTHING = tuple(10.0 ** (power / 4) for power in range(-16, 9))  # 0.0001 to 100

Counts = tuple[NDArray[np.int64], NDArray[np.int64]]  # codes that occur, ascending, and how often


@dataclass(frozen=True)
class References:
    """Nats per validation token of three predictions that need no training."""

    uniform: float
    unigram: float
    bigram: float

    def named(self) -> dict[str, float]:
        """As plots and tables call them."""
        return {"ln V": self.uniform, "unigram entropy": self.unigram, "count bigram": self.bigram}


def references(train: TokenArray, validation: Iterable[Tensor], vocab_size: int) -> References:
    """Counted on all of `train`, measured on `validation`: chunks of windows (b, t + 1)."""
    windows = np.concatenate([chunk.numpy() for chunk in validation])
    left, right = windows[:, :-1].ravel(), windows[:, 1:].ravel()
    singles, pairs = count(train, singles_of), count(train, lambda tokens: pairs_of(tokens, vocab_size))
    totals = np.zeros(vocab_size, np.int64)
    np.add.at(totals, pairs[0] // vocab_size, pairs[1])  # how often each token has a next one
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


def count(tokens: TokenArray, codes: Callable[[NDArray[np.int64]], NDArray[np.int64]]) -> Counts:
    """How often each code occurs, block by block; blocks share one token, so that no pair is lost."""
    found, often = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for start in range(0, len(tokens) - 1, BLOCK):
        new, times = np.unique(codes(tokens[start : start + BLOCK + 1].astype(np.int64)), return_counts=True)
        found, place = np.unique(np.concatenate([found, new]), return_inverse=True)
        often = np.bincount(place, np.concatenate([often, times])).astype(np.int64)
    return found, often


def look_up(counts: Counts, codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each of these codes occurred."""
    found, often = counts
    place = np.minimum(np.searchsorted(found, codes), len(found) - 1)
    return np.where(found[place] == codes, often[place], 0)


def best_smoothing(pairs: Counts, totals: NDArray[np.int64], vocab_size: int) -> float:
    """The `a` under which (count + a) / (total + a V), counted without the token in question, predicts it best."""
    codes, often = pairs
    total = totals[codes // vocab_size]

    def surprise(a: float) -> float:
        return -float((often * np.log((often - 1 + a) / (total - 1 + a * vocab_size))).sum())

    return min(SMOOTHING, key=surprise)
