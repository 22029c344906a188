"""Schedules against values written out by hand, against torch's cosine, and without jumps."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fathom.training.optimizer import factor
from fathom.training.options import TrainOptions

KINDS = ("constant", "linear", "cosine", "wsd")


def options(schedule: str, steps: int = 10, warmup: int = 0, decay: float = 0.4, final: float = 0.2) -> TrainOptions:
    return TrainOptions(
        schedule=schedule,  # type: ignore[arg-type]
        max_iters=steps,
        warmup_steps=warmup,
        decay_fraction=decay,
        final_fraction=final,
    )


WRITTEN = {
    "constant": [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1, 1],
    "linear": [0.25, 0.5, 0.75, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3],
    "wsd": [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4],
}


@pytest.mark.parametrize("kind", ["constant", "linear", "wsd"])
def test_values_written_out(kind: str) -> None:
    chosen = {
        "constant": options(kind, 11, 3),
        "linear": options(kind, 11, 3, final=0.2),
        "wsd": options(kind, 10, 3, decay=0.3, final=0.4),
    }[kind]
    assert [factor(step, chosen) for step in range(11)] == pytest.approx(WRITTEN[kind])


def test_cosine_is_torchs() -> None:
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.2)
    for step in range(20):
        assert factor(step, options("cosine", 20)) == pytest.approx(theirs.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("kind", KINDS[1:])
def test_the_end_is_the_final_fraction_and_stays(kind: str) -> None:
    assert factor(10, options(kind)) == factor(11, options(kind)) == factor(10**9, options(kind)) == pytest.approx(0.2)
    assert factor(9, options(kind)) > 0.2


chosen = st.builds(
    options,
    st.sampled_from(KINDS),
    steps=st.integers(100, 1000),
    warmup=st.integers(0, 50),
    decay=st.floats(0.1, 0.5),
    final=st.floats(0, 1),
)


@given(chosen)
def test_within_bounds_without_jumps_up_then_down(chosen: TrainOptions) -> None:
    values = [factor(step, chosen) for step in range(chosen.max_iters + 1)]
    assert min(values) >= 0 and max(values) == 1 and values[0] > 0
    rises = [after - before for before, after in pairwise(values)]
    assert rises[: chosen.warmup] == pytest.approx([1 / (chosen.warmup + 1)] * chosen.warmup)
    steepest = 0.5 * math.pi / min(chosen.max_iters - chosen.warmup, 0.1 * chosen.max_iters)
    assert all(-steepest - 1e-9 <= rise <= 1e-9 for rise in rises[chosen.warmup :])
