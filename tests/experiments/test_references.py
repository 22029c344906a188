"""What counting predicts, against counting done the slow and obvious way."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fathom.experiments import references as module
from fathom.experiments.references import SMOOTHING, best_smoothing, count, pairs_of, references, singles_of

V = 7


def text(n: int) -> np.ndarray:
    """Tokens in which each depends on the one before."""
    random = np.random.default_rng(0)
    chances = random.dirichlet(np.full(V, 0.3), size=V)
    tokens = [0]
    for _ in range(n - 1):
        tokens.append(int(random.choice(V, p=chances[tokens[-1]])))
    return np.array(tokens, np.uint8)


def obvious(train: list[int], windows: list[list[int]], a: float) -> float:
    pairs, firsts = Counter(pairwise(train)), Counter(train[:-1])
    targets = [(x, y) for row in windows for x, y in pairwise(row)]
    return -sum(math.log((pairs[x, y] + a) / (firsts[x] + a * V)) for x, y in targets) / len(targets)


def test_references_are_what_counting_says() -> None:
    train, windows = np.split(text(3120), [3000])
    windows = windows.reshape(10, 12)
    found = references(train, [torch.from_numpy(w.astype(np.int64)) for w in np.split(windows, 2)], V)
    assert found.uniform == pytest.approx(math.log(V))
    best = min(SMOOTHING, key=lambda a: leave_one_out(train.tolist(), a))
    assert found.bigram == pytest.approx(obvious(train.tolist(), windows.tolist(), best))
    often, targets = Counter(train[:-1].tolist()), windows[:, 1:].ravel().tolist()
    assert found.unigram == pytest.approx(-np.mean([math.log((often[y] + 1) / (2999 + V)) for y in targets]))
    assert found.bigram < found.unigram < found.uniform


def leave_one_out(train: list[int], a: float) -> float:
    """The surprise about each pair when it alone is taken out of the counts."""
    pairs, firsts = Counter(pairwise(train)), Counter(train[:-1])
    return -sum(math.log((pairs[p] - 1 + a) / (firsts[p[0]] - 1 + a * V)) for p in pairwise(train))


@given(st.lists(st.integers(0, V - 1), min_size=2, max_size=60), st.integers(1, 9))
def test_counting_in_blocks_loses_no_pair(tokens: list[int], block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        codes, often = count(np.array(tokens, np.uint16), lambda some: pairs_of(some, V))
        singles, times = count(np.array(tokens, np.uint16), singles_of)
    assert dict(zip(codes.tolist(), often.tolist())) == Counter(x * V + y for x, y in pairwise(tokens))
    assert dict(zip(singles.tolist(), times.tolist())) == Counter(tokens[:-1])


@pytest.mark.parametrize("n", [60, 20000])
def test_smoothing_suits_the_amount_of_text(n: int) -> None:
    tokens = text(n)
    pairs = count(tokens, lambda some: pairs_of(some, V))
    totals = np.bincount(pairs[0] // V, pairs[1], V).astype(np.int64)
    chosen = best_smoothing(pairs, totals, V)
    assert chosen == min(SMOOTHING, key=lambda a: leave_one_out(tokens.tolist(), a))


def test_a_large_vocabulary_needs_no_table_of_pairs() -> None:
    tokens = np.arange(1000, dtype=np.uint32) * 97 % 100_000
    found = references(tokens, [torch.arange(20)[None]], 100_000)  # a table would have 10^10 entries
    assert 0 < found.bigram < 20
