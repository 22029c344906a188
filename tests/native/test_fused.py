"""Each fused pass against its equation in fp64, on every instruction set of this machine, within bf16 rounding."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fathom.model.norm import rms_norm
from fathom.native import kernels

pytestmark = [
    pytest.mark.usefixtures("isa"),
    pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 64), (5, 333)]),
]
HALF_ULP = 1.01 * 2**-8  # relative: half the distance of two bf16 numbers, and a little more


def random_bf16(size: tuple[int, ...]) -> Tensor:
    return (torch.randn(size) * 4).bfloat16()


def close(ours: Tensor, exact: Tensor) -> None:
    assert ours.dtype == torch.bfloat16
    assert (ours.double() - exact).abs().le(HALF_ULP * exact.abs() + 1e-5).all()


def test_gelu(size: tuple[int, int]) -> None:
    x, grad = random_bf16(size), random_bf16(size)
    exact = F.gelu(leaf := x.double().requires_grad_(), approximate="tanh")
    close(kernels.gelu_forward(x), exact)
    close(kernels.gelu_backward(grad, x), torch.autograd.grad(exact, leaf, grad.double())[0])


def test_swiglu(size: tuple[int, int]) -> None:
    gate, up, grad = random_bf16(size), random_bf16(size), random_bf16(size)
    leaves = [x.double().requires_grad_() for x in (gate, up)]
    exact = F.silu(leaves[0]) * leaves[1]
    close(kernels.swiglu_forward(gate, up), exact)
    for ours, theirs in zip(kernels.swiglu_backward(grad, gate, up), torch.autograd.grad(exact, leaves, grad.double())):
        close(ours, theirs)


def test_rms_norm(size: tuple[int, int]) -> None:
    x, grad, weight = random_bf16(size), random_bf16(size), random_bf16(size[1:])
    exact = rms_norm(leaf := x.double().requires_grad_(), weight.double(), 1e-5)
    close(kernels.rms_norm_forward(x, weight, 1e-5), exact)
    theirs = torch.autograd.grad(exact, leaf, grad.double())[0]
    ours = kernels.rms_norm_backward(grad, x, weight, 1e-5).double()
    assert (ours - theirs).abs().le(HALF_ULP * theirs.abs() + 1e-5 * grad.abs().max() * weight.abs().max()).all()


def test_exponentials(size: tuple[int, int]) -> None:
    logits = random_bf16(size)
    exact = (logits.double() - logits.double().amax(-1, keepdim=True)).exp()
    largest, total = kernels.exponentials(e := logits.clone())
    close(e, exact)
    assert torch.equal(largest, logits.float().amax(-1))
    torch.testing.assert_close(total.double(), exact.sum(-1), rtol=1e-6, atol=0)


def test_what_is_not_finite_stays_so(size: tuple[int, int]) -> None:
    """Else a run that diverges would not stop."""
    for wrong in (torch.nan, torch.inf):
        x = torch.full(size, wrong, dtype=torch.bfloat16)
        assert not kernels.rms_norm_forward(x, torch.ones(size[1]).bfloat16(), 1e-5).isfinite().any()
        assert not kernels.swiglu_forward(x, x).isfinite().any() and not kernels.gelu_forward(x).isfinite().any()
        assert not kernels.exponentials(x)[1].isfinite().any()
