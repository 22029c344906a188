"""The equation and the kernel are one function, in value and in gradient."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fathom.model.attention import Soft, attend, attend_fused, causal


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, ...]:
    """b, h, g, t, s, c with g a divisor of h and s at least t."""
    g, t = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    b, per_group, past, c = (draw(st.integers(low, high)) for low, high in ((1, 3), (1, 4), (0, 8), (1, 9)))
    return b, g * per_group, g, t, t + past, c


def some_mask(kind: str, b: int, t: int, s: int) -> Tensor | None:
    """Random, but every query sees itself."""
    itself = torch.eye(s, dtype=torch.bool)[s - t :]
    shape = {"rows": (b, 1, t, s), "one": (t, s)}.get(kind)
    return None if shape is None else (torch.rand(shape) < 0.5) | itself


def both(shape: tuple[int, ...], kind: str, scale: float) -> list[tuple[Tensor, ...]]:
    """Output and gradients of q, k and v, written out and fused, in float64."""
    b, h, g, t, s, c = shape
    inputs = [scale * torch.randn(b, n, length, c, dtype=torch.float64) for n, length in ((h, t), (g, s), (g, s))]
    mask, weight = some_mask(kind, b, t, s), torch.randn(b, h, t, c, dtype=torch.float64)
    results = []
    for function in (attend, attend_fused):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = function(*leaves, mask, 0.0)
        results.append((out, *torch.autograd.grad((out * weight).sum(), leaves)))
    return results


@given(shape=shapes(), kind=st.sampled_from(["causal", "one", "rows"]), scale=st.sampled_from([0.1, 1.0, 10.0]))
@settings(max_examples=150, derandomize=True)
def test_written_out_is_fused_in_value_and_gradient(shape: tuple[int, ...], kind: str, scale: float) -> None:
    for plain, fused in zip(*both(shape, kind, scale)):
        torch.testing.assert_close(plain, fused, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("shape", [(2, 6, 2, 33, 33, 16), (1, 4, 4, 17, 65, 8), (3, 8, 1, 1, 70, 32)])
def test_in_float32_at_larger_sizes(shape: tuple[int, ...]) -> None:
    b, h, g, t, s, c = shape
    q, k, v = torch.randn(b, h, t, c), torch.randn(b, g, s, c), torch.randn(b, g, s, c)
    torch.testing.assert_close(attend(q, k, v, None, 0.0), attend_fused(q, k, v, None, 0.0), atol=1e-5, rtol=1e-5)


def test_causal_by_hand() -> None:
    assert causal(2, 4, torch.device("cpu")).tolist() == [[True, True, True, False], [True, True, True, True]]


def test_a_single_query_sees_all_keys_and_none_is_causal() -> None:
    q, k, v = torch.randn(1, 1, 3, 4), torch.randn(1, 1, 3, 4), torch.randn(1, 1, 3, 4)
    for function in (attend, attend_fused):
        whole = function(q, k, v, None, 0.0)
        for i in range(3):  # row by row: the first i + 1 keys alone
            row = function(q[:, :, i : i + 1], k[:, :, : i + 1], v[:, :, : i + 1], None, 0.0)
            torch.testing.assert_close(whole[:, :, i : i + 1], row)
        torch.testing.assert_close(whole[:, :, 0], v[:, :, 0])


def test_note_is_shown_scores_and_pattern_and_may_change_them() -> None:
    q, k, v = torch.randn(1, 2, 3, 4), torch.randn(1, 1, 3, 4), torch.randn(1, 1, 3, 4)
    shown: list[str] = []

    def note(name: str, x: Tensor) -> Tensor:
        shown.append(name)
        return x * 0 if name == "pattern" else x

    assert (attend(q, k, v, None, 0.0, note) == 0).all()
    assert shown == ["scores", "pattern"]


@pytest.mark.parametrize("cap", [None, 2.0])
def test_a_sink_is_a_score_that_no_key_has(cap: float | None) -> None:
    """As the softmax over one more score; what it takes is missing from the pattern, and its gradient reaches it."""
    q, k, v = torch.randn(2, 4, 5, 6), torch.randn(2, 2, 7, 6), torch.randn(2, 2, 7, 6)
    sinks = torch.randn(4).requires_grad_()
    seen: dict[str, Tensor] = {}

    def note(name: str, x: Tensor) -> Tensor:
        seen[name] = x
        return x

    z = attend(q, k, v, None, 0.0, note, soft=Soft(cap, sinks))
    torch.testing.assert_close(z, attend_fused(q, k, v, None, 0.0, soft=Soft(cap, sinks)))
    for b, h, t in itertools.product(range(2), range(4), range(5)):
        row = seen["scores"][b, h, t, : t + 3].double()
        shares = row.exp() / (row.exp().sum() + sinks[h].double().exp())
        torch.testing.assert_close(seen["pattern"][b, h, t, : t + 3].double(), shares, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(z[b, h, t].double(), shares @ v[b, h // 2, : t + 3].double(), rtol=1e-5, atol=1e-5)
    z.sum().backward()
    assert sinks.grad is not None and (sinks.grad != 0).all()
    without = attend(q, k, v, None, 0.0, soft=Soft(cap, torch.full((4,), float("-inf"))))
    torch.testing.assert_close(without, attend(q, k, v, None, 0.0, soft=Soft(cap)))


def test_dropout_leaves_the_mean() -> None:
    q, k, v = torch.randn(1, 1, 4, 8), torch.randn(1, 1, 4, 8), torch.randn(1, 1, 4, 8)
    for function in (attend, attend_fused):
        many = function(*(x.expand(4000, -1, -1, -1) for x in (q, k, v)), None, 0.25).mean(0)
        torch.testing.assert_close(many, attend(q, k, v, None, 0.0)[0], atol=0.12, rtol=0.0)
