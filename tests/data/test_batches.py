"""Batches are a pure function of seed and step, and an epoch is every window of a grid exactly once."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fathom.data.batches import Batches, eval_windows
from fathom.errors import FathomError


def tokens(count: int) -> np.ndarray:
    """Ids that are their own places, so that a window says where it stood."""
    return np.arange(count, dtype=np.uint32)


SHAPES = st.tuples(st.integers(2, 400), st.integers(1, 50), st.integers(1, 9), st.integers(0, 5)).filter(
    lambda shape: shape[0] > shape[1]
)


def epoch_starts(batches: Batches, epoch: int) -> list[int]:
    """Where the windows of one epoch start, in the order in which steps give them."""
    first, n, b = epoch * batches.n_windows, batches.n_windows, batches.batch_size
    rows = [row for step in range(first // b, (first + n - 1) // b + 1) for row in batches.at(step)[:, 0].tolist()]
    return rows[first % b :][:n]


@given(SHAPES)
def test_every_window_of_the_grid_exactly_once_per_epoch(shape: tuple[int, int, int, int]) -> None:
    count, t, b, epoch = shape
    starts = sorted(epoch_starts(Batches(tokens(count), t, b, seed=1), epoch))
    assert len(starts) == max(1, count // t - 1)
    assert all(following - start == t for start, following in pairwise(starts))
    assert 0 <= starts[0] < 2 * t
    assert starts[-1] + t < count


@given(SHAPES)
def test_rows_are_runs_of_the_text(shape: tuple[int, int, int, int]) -> None:
    count, t, b, step = shape
    batch = Batches(tokens(count), t, b, seed=2).at(step)
    assert batch.shape == (b, t + 1)
    assert batch.dtype == torch.int64
    assert torch.equal(batch, batch[:, :1] + torch.arange(t + 1))


@given(st.permutations(range(12)))
def test_a_step_does_not_depend_on_the_steps_before(order: list[int]) -> None:
    straight = Batches(tokens(100), 8, 4, seed=3)
    expected = [straight.at(step) for step in range(12)]
    jumping = Batches(tokens(100), 8, 4, seed=3)
    assert all(torch.equal(jumping.at(step), expected[step]) for step in order)


def test_epochs_differ_in_order_and_in_phase() -> None:
    batches = Batches(tokens(10_000), 10, 8, seed=0)
    epochs = [epoch_starts(batches, epoch) for epoch in range(20)]
    assert len({tuple(starts) for starts in epochs}) == 20
    assert len({min(starts) for starts in epochs}) > 5
    assert all(starts != sorted(starts) for starts in epochs)


def test_seeds_differ() -> None:
    a, b = (Batches(tokens(10_000), 10, 8, seed) for seed in (0, 1))
    assert not torch.equal(a.at(0), b.at(0))


def test_every_token_is_a_target_before_long() -> None:
    """No place of the text is out of reach, only the very first token is never predicted."""
    batches = Batches(tokens(103), 10, 9, seed=0)
    seen = {id for step in range(200) for id in batches.at(step)[:, 1:].flatten().tolist()}
    assert seen == set(range(1, 103))


@pytest.mark.parametrize(("step", "epoch"), [(0, 0), (1, 0), (2, 0), (3, 1), (5, 2), (6, 2), (7, 3)])
def test_epoch_of_a_step(step: int, epoch: int) -> None:
    batches = Batches(tokens(100), 10, 4, seed=0)
    assert batches.n_windows == 9  # steps 0 and 1 lie in epoch 0, step 2 starts there and ends in epoch 1
    assert batches.epoch(step) == epoch


def test_steps_far_away_cost_nothing() -> None:
    assert Batches(tokens(1000), 10, 4, seed=0).at(10**12).shape == (4, 11)


def test_a_batch_larger_than_the_text_is_filled_from_the_next_epochs() -> None:
    assert Batches(tokens(12), 10, 50, seed=0).at(0).shape == (50, 11)


@pytest.mark.parametrize("make", [lambda ids, t: Batches(ids, t, 2, 0), lambda ids, t: next(eval_windows(ids, t))])
@pytest.mark.parametrize(
    ("count", "context", "said"),
    [(0, 8, "has 0 tokens"), (8, 8, "needs at least 9.*--context-length"), (8, 0, "at least 1")],
)
def test_a_text_too_small_for_the_context_is_one_line(make: object, count: int, context: int, said: str) -> None:
    with pytest.raises(FathomError, match=said):
        make(tokens(count), context)  # type: ignore[operator]


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(FathomError, match="batch_size is 0"):
        Batches(tokens(100), 8, 0, seed=0)


@given(count=st.integers(2, 300), t=st.integers(1, 40), b=st.integers(1, 7))
def test_evaluation_predicts_every_token_once(count: int, t: int, b: int) -> None:
    if count <= t:
        return
    chunks = list(eval_windows(tokens(count), t, batch_size=b))
    targets = torch.cat([chunk[:, 1:].flatten() for chunk in chunks]).tolist()
    assert targets == list(range(1, (count - 1) // t * t + 1))
    assert all(len(chunk) == b for chunk in chunks[:-1])


@pytest.mark.parametrize("count", [1, 3, 10, 99, 100, 1000])
def test_evaluation_on_some_windows_spreads_them(count: int) -> None:
    starts = torch.cat(list(eval_windows(tokens(1001), 10, count)))[:, 0].tolist()
    assert len(set(starts)) == len(starts) == min(count, 100)
    gaps = {following - start for start, following in pairwise(starts)}
    assert max(gaps, default=0) - min(gaps, default=0) <= 10
    assert starts[-1] + 1000 / len(starts) > 980  # up to the end of the text
    assert starts == torch.cat(list(eval_windows(tokens(1001), 10, count)))[:, 0].tolist()
