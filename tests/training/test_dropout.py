"""Masks of dropout: as random as they should be, and the same however a batch is divided."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fathom.model.config import ModelConfig
from fathom.training.dropout import dropped, row_keys
from fathom.training.loss import accumulate
from fathom.training.options import TrainOptions
from fathom.training.session import Session

CONFIG = ModelConfig(vocab_size=30, context_length=10, d_model=24, n_layer=2, n_head=3, position="rope", mlp="gelu",
                     norm="layer", dropout=0.3)  # fmt: skip


def lowbias32(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The published hash, in unsigned numbers."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def unsigned(x: Tensor) -> NDArray[np.uint32]:
    return x.numpy().view(np.uint32)


def test_a_mask_is_the_hash_of_its_place() -> None:
    keys, site, p = row_keys(7, 3, range(4)), 5, 0.3
    assert len(set(keys.tolist())) == 4
    rows = lowbias32(unsigned(keys) + np.uint32(site * 0x9E3779B9 % 2**32))
    places = np.arange(6 * 50, dtype=np.uint32)
    hashed = lowbias32(places[None] ^ rows[:, None]).reshape(4, 6, 50)
    # as signed numbers, the least ones are dropped
    kept = hashed.view(np.int32).astype(np.int64) + 2**31 >= int(p * 2**32)
    found = dropped(torch.ones(4, 6, 50), keys, site, p).numpy()
    np.testing.assert_allclose(found, kept / (1 - p), rtol=1e-6)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_numbers_are_dropped_with_the_probability_and_independently(p: float) -> None:
    """Of 800,000 numbers the share that is dropped, also of those beside, below and in the next layer of another."""
    gone = dropped(torch.ones(16, 100, 500), row_keys(1, 2, range(16)), 3, p) == 0
    elsewhere = dropped(torch.ones(16, 100, 500), row_keys(1, 2, range(16)), 4, p) == 0
    later = dropped(torch.ones(16, 100, 500), row_keys(1, 3, range(16)), 3, p) == 0
    spread = 5 * (1 / gone.numel()) ** 0.5  # five deviations, and more
    assert abs(gone.float().mean() - p) < spread
    pairs = [(gone, elsewhere), (gone, later), (gone[:, :, 1:], gone[:, :, :-1]), (gone[:, 1:], gone[:, :-1]),
             (gone[1:], gone[:-1]), (gone[:, :, 16:], gone[:, :, :-16])]  # fmt: skip
    for one, other in pairs:
        assert abs((one & other).float().mean() - p * p) < spread


WAYS: dict[str, dict[str, Any]] = {"plain": {}, "recomputed": {"checkpoint_blocks": True}, "bf16": {"dtype": "bf16"}}


@pytest.mark.parametrize("more", WAYS.values(), ids=list(WAYS))
def test_the_size_of_a_micro_batch_changes_no_mask(more: dict[str, Any]) -> None:
    """Nor does the state of torch's generator: losses and gradients of a step are those of its rows."""
    ids, found = torch.randint(0, 30, (4, 11)), []
    for size in (4, 2, 1):
        options = TrainOptions(**({"batch_size": 4, "micro_batch_size": size, "device": "cpu", "dtype": "fp32"} | more))
        session = Session.start(CONFIG, options)
        torch.manual_seed(size)
        batch = session.prepare(ids, step=5)
        loss = accumulate(session.learner, batch, session.precision, session.scaler)
        found.append((loss, torch.cat([p.grad.flatten() for p in session.model.parameters() if p.grad is not None])))
    tolerance = 0.02 if more.get("dtype") else 1e-6
    for loss, gradient in found[1:]:
        assert loss.item() == pytest.approx(found[0][0].item(), rel=tolerance)
        assert (gradient - found[0][1]).norm() < tolerance * found[0][1].norm() * 2


def test_another_step_has_other_masks_and_evaluation_none() -> None:
    session = Session.start(CONFIG, TrainOptions(batch_size=4, device="cpu", dtype="fp32"))
    ids = torch.randint(0, 30, (4, 11))

    def loss(step: int) -> float:
        batch = session.prepare(ids, step)
        return accumulate(session.learner, batch, session.precision, session.scaler).item()

    assert loss(1) == loss(1) != loss(2)
    session.model.eval()
    assert loss(1) == loss(2)
    plain = Session.start(CONFIG, TrainOptions(batch_size=4, device="cpu", dtype="fp32")).model
    expected = torch.nn.functional.cross_entropy(plain.eval()(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    assert loss(1) == pytest.approx(expected.item(), rel=1e-6)


def test_dropout_is_the_equation_with_masks_on_what_it_drops() -> None:
    """The mean over many masks is the pass without: every number is dropped at its rate, and scaled for it."""
    x, keys = torch.randn(3, 4, 5), row_keys(0, 0, range(3))
    mean = torch.stack([dropped(x, keys, site, 0.4) for site in range(4000)]).mean(0)
    torch.testing.assert_close(mean, x, atol=0.15, rtol=0)
