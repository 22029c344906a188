"""Each pass against its equation in fp64, with every instruction set of this machine: to bf16's last bit or so."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fathom.model.norm import rms_norm
from fathom.native import kernels
from fathom.native.build import FLAGS, NEEDS, compiler, features

HERE = [kind for kind in FLAGS if NEEDS[kind] <= features()]
pytestmark = [
    pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler"),
    pytest.mark.parametrize("kind", HERE),
    pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 64), (5, 333)]),
]
HALF = 1.01 * 2**-8  # of a number: half the distance of bf16 numbers, and a little room


@pytest.fixture(autouse=True)
def forced(kind: str, monkeypatch: pytest.MonkeyPatch, two_threads: None) -> None:
    monkeypatch.setenv("FATHOM_NATIVE", kind)


def drawn(size: tuple[int, ...]) -> Tensor:
    return (torch.randn(size) * 4).bfloat16()


def close(ours: Tensor, exact: Tensor) -> None:
    assert ours.dtype == torch.bfloat16
    assert (ours.double() - exact).abs().le(HALF * exact.abs() + 1e-5).all()


def test_gelu(size: tuple[int, int]) -> None:
    x, grad = drawn(size), drawn(size)
    exact = F.gelu(leaf := x.double().requires_grad_(), approximate="tanh")
    close(kernels.gelu_forward(x), exact)
    close(kernels.gelu_backward(grad, x), torch.autograd.grad(exact, leaf, grad.double())[0])


def test_swiglu(size: tuple[int, int]) -> None:
    gate, up, grad = drawn(size), drawn(size), drawn(size)
    leaves = [x.double().requires_grad_() for x in (gate, up)]
    exact = F.silu(leaves[0]) * leaves[1]
    close(kernels.swiglu_forward(gate, up), exact)
    for ours, theirs in zip(kernels.swiglu_backward(grad, gate, up), torch.autograd.grad(exact, leaves, grad.double())):
        close(ours, theirs)


def test_rms(size: tuple[int, int]) -> None:
    x, grad, weight = drawn(size), drawn(size), drawn(size[1:])
    exact = rms_norm(leaf := x.double().requires_grad_(), weight.double(), 1e-5)
    close(kernels.rms_norm_forward(x, weight, 1e-5), exact)
    theirs = torch.autograd.grad(exact, leaf, grad.double())[0]
    ours = kernels.rms_norm_backward(grad, x, weight, 1e-5).double()
    assert (ours - theirs).abs().le(HALF * theirs.abs() + 1e-5 * grad.abs().max() * weight.abs().max()).all()


def test_exponents(size: tuple[int, int]) -> None:
    logits = drawn(size)
    exact = (logits.double() - logits.double().amax(-1, keepdim=True)).exp()
    largest, total = kernels.exponentials(e := logits.clone())
    close(e, exact)
    assert torch.equal(largest, logits.float().amax(-1))
    torch.testing.assert_close(total.double(), exact.sum(-1), rtol=1e-6, atol=0)


def test_what_is_not_finite_is_seen(size: tuple[int, int]) -> None:
    """A diverging run must say so."""
    for wrong in (torch.nan, torch.inf):
        x = torch.full(size, wrong, dtype=torch.bfloat16)
        assert not kernels.rms_norm_forward(x, torch.ones(size[1]).bfloat16(), 1e-5).isfinite().any()
        assert not kernels.swiglu_forward(x, x).isfinite().any() and not kernels.gelu_forward(x).isfinite().any()
        assert not kernels.exponentials(x)[1].isfinite().any()
