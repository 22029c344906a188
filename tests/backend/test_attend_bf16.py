"""Attention by matrix products in bf16 against the equation in fp64, in value and gradients."""

import pytest
import torch
from torch import Tensor

from fathom.backend import training
from fathom.backend.training import attend_bf16
from fathom.model.attention import attend

SIZES = [
    (2, 4, 4, 24, 24, 8),
    (1, 4, 2, 33, 33, 16),
    (2, 6, 1, 17, 17, 4),
    (1, 2, 2, 5, 40, 8),
    (1, 1, 1, 1, 1, 2),
    (2, 4, 2, 1, 40, 8),
]


def heads(b: int, n: int, t: int, c: int) -> Tensor:
    """As the model makes them: (b, n, t, c), whose t lies before n in memory."""
    return torch.randn(b, t, n, c, dtype=torch.bfloat16).transpose(1, 2)


def results(function: object, inputs: list[Tensor], visible: Tensor | None, grad: Tensor) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    z = function(*leaves, visible, 0.0)  # type: ignore[operator]
    return [z.detach(), *torch.autograd.grad(z, leaves, grad)]


@pytest.mark.parametrize("b, h, g, t, s, c", SIZES)
@pytest.mark.parametrize("chunk", [8, 128])
@pytest.mark.parametrize("masked", [False, True])
def test_near_the_equation(
    b: int, h: int, g: int, t: int, s: int, c: int, chunk: int, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHUNK", chunk)
    torch.manual_seed(t)
    inputs, grad = [heads(b, h, t, c), heads(b, g, s, c), heads(b, g, s, c)], heads(b, h, t, c)
    texts = torch.randint(0, 3, (b, s)).sort(-1).values if masked else None
    visible = None if texts is None else (texts[:, None, -t:, None] == texts[:, None, None, :]).tril(s - t)
    ours = results(attend_bf16, inputs, visible, grad)
    exact = results(attend, [x.double() for x in inputs], visible, grad.double())
    for mine, right in zip(ours, exact):
        assert mine.dtype == torch.bfloat16
        assert (mine.double() - right).norm() <= 0.01 * right.norm() + 1e-6


def test_backward_keeps_nothing_that_grows_with_the_square() -> None:
    q, k, v = (heads(1, 2, 256, 4).requires_grad_() for _ in range(3))
    kept: list[int] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        attend_bf16(q, k, v, None, 0.0)
    assert kept == [2 * 256 * 4] * 3


@pytest.mark.parametrize(
    "dtype, dropout, s",
    [(torch.float32, 0.0, 8), (torch.bfloat16, 0.5, 8), (torch.bfloat16, 0.0, 600), (torch.bfloat16, 0.0, 1)],
)
def test_elsewhere_the_fused_kernel_answers_in_fp32(
    dtype: torch.dtype, dropout: float, s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.dtype] = []

    def watched(q: Tensor, *rest: object, **cap: object) -> Tensor:
        seen.append(q.dtype)
        return q

    monkeypatch.setattr(training, "attend_fused", watched)
    x = torch.randn(1, 1, s, 4, dtype=dtype)
    assert attend_bf16(x, x, x, None, dropout).dtype == dtype and seen == [torch.float32]
