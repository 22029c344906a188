"""Samplers against a NumPy implementation that knows nothing of them, and drawing against exact probabilities."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from fathom.generation import sampling
from fathom.generation.options import Bias, SamplingOptions
from fathom.generation.sampling import Samplers, draw

Row = NDArray[np.float64]
logits_of = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
    elements=st.integers(-400, 400).map(lambda i: i / 16),
    unique=True,
)
share = st.integers(1, 99).map(lambda i: i / 100)


def softmax(row: Row) -> Row:
    weights = np.exp(row - row.max())
    return weights / weights.sum()


def reference(name: str, row: Row, value: float, seen: list[int]) -> Row:
    """One row, one token after the other, in float64."""
    chances, result = softmax(row), row.copy()
    best_first = sorted(range(len(row)), key=lambda i: -row[i])
    if name == "temperature" and value == 0:
        kept = best_first[:1]
    elif name == "top_k":
        kept = best_first[: int(value)]
    elif name == "top_p":
        kept = next(
            best_first[:n] for n in range(1, len(row) + 1) if n == len(row) or _holds(chances, best_first[:n], value)
        )
    elif name == "min_p":
        kept = [i for i in best_first if chances[i] >= value * chances.max()]
    else:
        kept = best_first
    for i in range(len(row)):
        if name == "temperature" and value:
            result[i] = row[i] / value
        if name == "repetition_penalty" and i in seen:
            result[i] = row[i] / value if row[i] > 0 else row[i] * value
        if i not in kept:
            result[i] = -math.inf
    return softmax(result)


def _holds(chances: Row, kept: list[int], p: float) -> bool:
    return math.fsum(chances[i] for i in kept) >= p


def near_the_edge(name: str, row: Row, value: float) -> bool:
    """Where rounding may decide which token is the last to be kept."""
    chances = np.sort(softmax(row))[::-1]
    edge = np.cumsum(chances) - value if name == "top_p" else chances / chances[0] - value
    return name in ("top_p", "min_p") and bool((abs(edge) < 1e-5).any())


CASES: dict[str, st.SearchStrategy[float]] = {
    "temperature": st.sampled_from([0.0, 0.25, 0.8, 1.5, 100.0]),
    "top_k": st.integers(1, 15).map(float),
    "top_p": share,
    "min_p": share,
    "repetition_penalty": st.sampled_from([0.5, 1.1, 2.0]),
}


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=150, derandomize=True)
@given(data=st.data(), logits=logits_of)
def test_each_sampler_is_the_numpy_one(name: str, data: st.DataObject, logits: NDArray[np.float32]) -> None:
    value = data.draw(CASES[name])
    seen = [data.draw(st.lists(st.integers(0, logits.shape[1] - 1), max_size=4)) for _ in logits]
    mask = torch.zeros(logits.shape, dtype=torch.bool)
    for row, tokens in enumerate(seen):
        mask[row, tokens] = True
    ours = Samplers(SamplingOptions(**{name: int(value) if name == "top_k" else value}))
    found = ours(torch.from_numpy(logits), mask)
    assert found.dtype == torch.float32
    for row, tokens, chances in zip(logits.astype(np.float64), seen, found.double().softmax(-1).numpy()):
        if not near_the_edge(name, row, value):
            expected = reference(name, row, value, tokens)
            np.testing.assert_array_equal(chances > 0, expected > 0)
            np.testing.assert_allclose(chances, expected, atol=2e-5)


@settings(max_examples=100, derandomize=True)
@given(logits=logits_of, order=st.permutations(["temperature", "top_k", "min_p"]))
def test_samplers_act_in_the_order_that_was_said(logits: NDArray[np.float32], order: list[str]) -> None:
    values = {"temperature": 0.5, "top_k": 4, "min_p": 0.1}
    options = SamplingOptions(**values, samplers=tuple(order))
    by_hand: torch.Tensor = torch.from_numpy(logits)
    for name in order:
        by_hand = getattr(sampling, name)(by_hand, values[name])
    assert torch.equal(
        Samplers(options)(torch.from_numpy(logits), torch.zeros(logits.shape, dtype=torch.bool)), by_hand
    )


def test_the_order_changes_the_result() -> None:
    """min_p 0.35 of (0.6, 0.3, 0.1) keeps two; of the flattened distribution all three."""
    logits, seen = torch.tensor([[0.6, 0.3, 0.1]]).log(), torch.zeros(1, 3, dtype=torch.bool)
    values = {"temperature": 2.0, "min_p": 0.35}
    kept = {
        order: int(Samplers(SamplingOptions(**values, samplers=tuple(order.split(","))))(logits, seen).isfinite().sum())
        for order in ("min_p,temperature", "temperature,min_p")
    }
    assert kept == {"min_p,temperature": 2, "temperature,min_p": 3}


@pytest.mark.parametrize("value", [1e-45, 1e-300, 1e-6])
def test_a_tiny_temperature_is_a_distribution_still(value: float) -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, -50.0]])
    assert torch.equal(sampling.temperature(logits, value).softmax(-1), torch.tensor([[0, 0.5, 0.5, 0]]))


# C15: the model's own probabilities sum to 1; a sampler renormalises its own kept set and nothing else.


def unit_sum(logprobs: torch.Tensor) -> float:
    return (logprobs.exp().sum(-1) - 1).abs().max().item()


def own_set(logits: torch.Tensor, sampled: torch.Tensor) -> float:
    """How far the sampled distribution is from the full one restricted to the kept set and divided by its mass."""
    full, kept = logits.double().softmax(-1), sampled.isfinite()
    return (sampled.double().softmax(-1) - full * kept / (full * kept).sum(-1, keepdim=True)).abs().max().item()


FILTERED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "top_k": lambda x: sampling.top_k(x, 50),
    "top_p": lambda x: sampling.top_p(x, 0.8),
    "min_p": lambda x: sampling.min_p(x, 0.05),
    "both": lambda x: sampling.min_p(sampling.top_p(x, 0.9), 0.02),
}


@pytest.mark.parametrize("name", FILTERED)
def test_c15_the_kept_set_alone_is_renormalised(name: str) -> None:
    logits = torch.randn(4, 500) * 3
    sampled = FILTERED[name](logits)
    assert 1 < sampled.isfinite().sum() < logits.numel()
    assert own_set(logits, sampled) <= 1e-6
    assert unit_sum(logits.log_softmax(-1)) <= 1e-6


def test_c15_is_red_when_the_full_softmax_covers_the_top_50_only() -> None:
    logits = torch.randn(4, 500)
    top = logits.topk(50)
    fault = logits.log_softmax(-1).scatter(-1, top.indices, top.values.log_softmax(-1))
    assert unit_sum(fault) > 0.1
    assert (
        own_set(logits, sampling.top_p(sampling.top_k(logits, 50), 0.9)) < 1e-6 < own_set(logits, top_p_of_all(logits))
    )


def top_p_of_all(logits: torch.Tensor) -> torch.Tensor:
    """The fault: the kept set's logits are themselves made a distribution, at another temperature."""
    return (
        sampling.top_k(logits, 50).softmax(-1).masked_fill(sampling.top_k(logits, 50) == float("-inf"), float("-inf"))
    )


# Drawing.


def test_draws_have_the_exact_probabilities() -> None:
    """Chi-square with 7 degrees of freedom: above 29.9 in one of 10,000 fair trials. The seed is fixed."""
    chances = torch.tensor([0.4, 0.25, 0.0, 0.15, 0.1, 0.05, 0.03, 0.015, 0.005])
    count = 60_000
    one = torch.Generator().manual_seed(5)
    drawn = draw(chances.log().expand(count, -1), [one] * count)
    observed = torch.bincount(drawn, minlength=len(chances)).double()
    expected = chances.double() * count
    assert observed[2] == 0
    some = expected > 0
    assert ((observed - expected)[some] ** 2 / expected[some]).sum() < 29.9


def test_the_first_draws_of_neighbouring_seeds_are_independent() -> None:
    """Rows are seeded seed, seed + 1, ...: over them, too, draws are fair (chi-square, 15 degrees: 44.3 at 1e-4)."""
    count = 4000
    drawn = draw(torch.zeros(count, 16), [torch.Generator().manual_seed(seed) for seed in range(count)])
    observed = torch.bincount(drawn, minlength=16).double()
    assert ((observed - count / 16) ** 2 / (count / 16)).sum() < 44.3


@settings(max_examples=100, derandomize=True)
@given(logits=logits_of, k=st.integers(1, 4), seed=st.integers(0, 2**62))
def test_what_was_left_out_is_never_drawn(logits: NDArray[np.float32], k: int, seed: int) -> None:
    kept = sampling.top_k(torch.from_numpy(logits), k)
    drawn = draw(kept, [torch.Generator().manual_seed(seed) for _ in logits])
    assert kept.gather(1, drawn[:, None]).isfinite().all()


class Fixed:
    """In place of torch.rand: the smallest and the largest number it can give."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, *shape: int, generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
        return torch.full(shape, self.value, dtype=dtype)


@pytest.mark.parametrize("value", [0.0, 1 - 2**-53])
def test_the_ends_of_the_unit_interval_draw_kept_tokens(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", Fixed(value))
    logits = torch.full((1, 9), float("-inf"))
    logits[0, [2, 4, 6]] = torch.tensor([0.1, 0.7, 1.3])
    assert draw(logits, [torch.Generator()]).item() == (6 if value == 0 else 2)


def test_a_row_draws_alike_whatever_stands_beside_it() -> None:
    logits = torch.randn(3, 40)
    together = draw(logits, [torch.Generator().manual_seed(i) for i in (7, 8, 9)])
    assert draw(logits[1:2], [torch.Generator().manual_seed(8)]).item() == together[1].item()


@given(logits=logits_of, data=st.data())
@settings(max_examples=100, derandomize=True)
def test_penalties_and_biases_are_openais_sum(logits: NDArray[np.float32], data: st.DataObject) -> None:
    """mu[j] + bias[j] - c[j] * frequency - float(c[j] > 0) * presence, c: how often the row generated token j."""
    counts = data.draw(arrays(np.int64, logits.shape, elements=st.integers(0, 4)))
    presence, frequency = data.draw(st.floats(-2, 2)), data.draw(st.floats(-2, 2))
    bias = data.draw(st.dictionaries(st.integers(0, logits.shape[1] - 1), st.floats(-100, 100), max_size=3))
    options = SamplingOptions(
        presence_penalty=presence,
        frequency_penalty=frequency,
        logit_bias=tuple(Bias(token, value) for token, value in bias.items()),
    )
    expected = logits.astype(np.float64) - counts * frequency - (counts > 0) * presence
    for token, value in bias.items():
        expected[:, token] += value
    found = Samplers(options)(torch.from_numpy(logits), torch.ones(1), torch.from_numpy(counts).float())
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-4)
