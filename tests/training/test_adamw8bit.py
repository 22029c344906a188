"""Moments in 8 bits: packed as bitsandbytes packs them, and a model learns with them as with AdamW's own."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fathom.quant.nf4 import DYNAMIC
from fathom.training.checkpoints import load_optimizer_state, optimizer_state
from fathom.training.optimizers.adamw8bit import LEAST, POSITIVE, AdamW8bit, pack, unpack

SETTINGS: dict[str, Any] = {"betas": (0.9, 0.99), "eps": 1e-8}


def test_values_are_dense_near_zero() -> None:
    assert len(POSITIVE) == 256 and (POSITIVE.diff() > 0).all() and POSITIVE[0] == 0 and POSITIVE[-1] == 1
    assert POSITIVE[1:-1].log10().floor().int().unique(return_counts=True)[1].tolist() == [2, 4, 8, 16, 32, 64, 128]


@pytest.mark.parametrize("signed, values", [(True, DYNAMIC), (False, POSITIVE)])
def test_packed_as_bitsandbytes_does(signed: bool, values: Tensor) -> None:
    bnb = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
    torch.testing.assert_close(values, bnb.create_dynamic_map(signed), rtol=1e-6, atol=0)
    x = torch.randn(3, 700) if signed else torch.randn(3, 700).square() + 1e-3
    codes, scales = pack(x, values)
    theirs, largest = torch.ops.bitsandbytes.quantize_blockwise(
        x.double(), values, 256
    )  # fp64: it looks for the nearest
    assert torch.equal(codes, theirs.flatten()) and torch.equal(scales, largest.float())


@pytest.mark.parametrize("values", [DYNAMIC, POSITIVE])
@pytest.mark.parametrize("n", [1, 255, 256, 1000])
def test_each_number_is_the_nearest_there_is(values: Tensor, n: int) -> None:
    x = torch.randn(n) if values is DYNAMIC else torch.rand(n)
    back = unpack(*pack(x, values), values, x)
    for block, made in zip(x.split(256), back.split(256)):
        best = (block[:, None] - values * block.abs().max()).abs().amin(1)
        torch.testing.assert_close((made - block).abs(), best, rtol=1e-4, atol=1e-7)


def test_a_small_square_never_becomes_nothing() -> None:
    x = torch.tensor([1.0, 1e-12, 0.0])
    back = unpack(*pack(x, POSITIVE), POSITIVE, x)
    assert back[1] > 0 and back[2] == 0


def learned(optimizer: str, steps: int = 150) -> tuple[list[float], torch.optim.Optimizer, nn.Module]:
    """A little network learns a function."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 96), nn.Tanh(), nn.Linear(96, 64))
    x = torch.randn(256, 64)
    y = (x @ torch.randn(64, 64) / 8).sin()
    groups = [{"params": list(model.parameters()), "lr": 3e-3, "weight_decay": 0.1}]
    made = AdamW8bit(groups, **SETTINGS) if optimizer == "8bit" else torch.optim.AdamW(groups, **SETTINGS)
    losses = []
    for _ in range(steps):
        loss = (model(x) - y).square().mean()
        made.zero_grad()
        loss.backward()
        made.step()
        losses.append(loss.item())
    return losses, made, model


def test_a_model_learns_as_with_adamw() -> None:
    (ours, _, _), (theirs, _, _) = learned("8bit"), learned("fp32")
    assert theirs[-1] < 0.3 * theirs[0]
    assert all(abs(a - b) < 0.03 * theirs[0] for a, b in zip(ours, theirs)) and ours[-1] < 1.1 * theirs[-1]


def test_small_tensors_are_moved_as_adamw_moves_them() -> None:
    ours, theirs = nn.Parameter(torch.linspace(-1, 1, LEAST - 1)), nn.Parameter(torch.linspace(-1, 1, LEAST - 1))
    group = {"lr": 0.01, "weight_decay": 0.1}
    small = AdamW8bit([{"params": [ours], **group}], **SETTINGS)
    whole = torch.optim.AdamW([{"params": [theirs], **group}], **SETTINGS)
    for step in range(5):
        ours.grad = torch.sin(ours.detach() * step + step)
        theirs.grad = ours.grad.clone()
        small.step()
        whole.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_what_it_keeps_is_a_quarter() -> None:
    _, optimizer, model = learned("8bit", 1)
    matrices = [p for p in model.parameters() if p.numel() >= LEAST]
    state = [x for p in matrices for x in optimizer.state[p].values() if isinstance(x, Tensor)]
    assert sum(x.nbytes for x in state) <= 2.05 * sum(p.numel() for p in matrices)


def test_it_goes_on_to_the_bit_from_what_was_saved() -> None:
    _, first, model = learned("8bit", 3)
    tensors, saved = optimizer_state([first], model.named_parameters())
    tensors = {name: x.clone() for name, x in tensors.items()}
    _, second, other = learned("8bit", 1)
    other.load_state_dict(model.state_dict())
    load_optimizer_state([second], other.named_parameters(), tensors, saved)
    for one in (model, other):
        torch.manual_seed(1)
        for p in one.parameters():
            p.grad = torch.randn_like(p)
    first.step()
    second.step()
    assert all(map(torch.equal, model.parameters(), other.parameters()))
