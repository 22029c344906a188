"""Norms written out are torch's fused ones, in value and gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.model.config import ModelConfig
from fathom.model.norm import LayerNorm, RMSNorm, layer_norm, make_norm, rms_norm


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    width=st.integers(1, 17),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    eps=st.sampled_from([1e-6, 1e-5, 1e-2]),
    kind=st.sampled_from(["rms", "layer", "layer without bias"]),
)
@settings(max_examples=120, derandomize=True)
def test_written_out_is_fused(shape: list[int], width: int, scale: float, eps: float, kind: str) -> None:
    norm = RMSNorm(width, eps) if kind == "rms" else LayerNorm(width, eps, bias=kind == "layer")
    norm = norm.double()
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    x = (scale * torch.randn(*shape, width, dtype=torch.float64)).requires_grad_()
    leaves, up = [x, *norm.parameters()], torch.randn(*shape, width, dtype=torch.float64)
    if isinstance(norm, RMSNorm):
        plain = rms_norm(x, norm.weight, eps)
    else:
        plain = layer_norm(x, norm.weight, norm.bias, eps)
    fused = norm(x)
    torch.testing.assert_close(plain, fused, atol=1e-9, rtol=1e-7)
    for a, b in zip(torch.autograd.grad(plain, leaves, up), torch.autograd.grad(fused, leaves, up)):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-6)


def test_by_hand() -> None:
    x = torch.tensor([1.0, 3.0])  # mean 2, variance 1, mean square 5
    torch.testing.assert_close(
        layer_norm(x, torch.tensor([2.0, 2.0]), torch.tensor([0.5, 0.0]), 0.0), torch.tensor([-1.5, 2.0])
    )
    torch.testing.assert_close(rms_norm(x, torch.ones(2), 0.0), x / 5**0.5)
    torch.testing.assert_close(rms_norm(x, torch.ones(2), 4.0), x / 3)


@pytest.mark.parametrize(
    ("norm", "bias", "numbers"), [("none", True, 0), ("rms", True, 12), ("layer", True, 24), ("layer", False, 12)]
)
def test_what_each_choice_learns(norm: str, bias: bool, numbers: int) -> None:
    config = ModelConfig(vocab_size=5, context_length=4, d_model=12, n_layer=1, norm=norm, bias=bias)  # type: ignore[arg-type]
    built = make_norm(config.resolved())
    assert sum(p.numel() for p in built.parameters()) == numbers
    x = torch.randn(2, 12)
    assert torch.equal(built(x), x) is (norm == "none")
