"""What the pre-flight summary says is true."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fathom.training.loop import update
from fathom.training.optimizers import NAMES
from fathom.training.preflight import memory, overlap
from fathom.training.session import Session
from tests.training.runs import recipe


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_overlap_is_the_share_of_validation_text_that_was_trained_on(dtype: type) -> None:
    chance = np.random.default_rng(0)
    train, new = (chance.integers(0, 200, 4000).astype(dtype) for _ in range(2))
    assert overlap(train, new) == 0
    assert overlap(train, train[1000:2000]) == 1
    half = np.concatenate([train[:2000], new[:2000]])
    assert overlap(train, half) == pytest.approx(0.5, abs=0.05)


def test_tokens_match_and_not_their_bytes() -> None:
    """0x0101 0x0101 holds 0x0101 at an odd byte too; 0x0100 0x0001 holds 0x0001 only there."""
    assert overlap(np.array([0x0100, 0x0001] * 50, np.uint16), np.array([0x0001, 0x0100] * 30, np.uint16)) == 1
    assert overlap(np.array([0x0100] * 100, np.uint16), np.array([0x0001] * 60, np.uint16)) == 0


@pytest.mark.parametrize("optimizer", NAMES)
def test_memory_counts_what_each_optimizer_keeps(optimizer: str, tmp_path: Path) -> None:
    chosen = recipe(tmp_path, optimizer=optimizer).changed({"d_model": 96, "n_head": 4}, {})
    session = Session.start(chosen.config(30), chosen.options())
    update(session, session.prepare(torch.randint(0, 30, (8, 17))))
    states: list[dict[str, Any]] = [state for part in session.optimizers.parts for state in part.state.values()]
    kept = sum(x.nbytes for state in states for x in state.values() if isinstance(x, torch.Tensor) and x.ndim)
    assert memory(session)["optimizer"] == kept


def test_recomputed_blocks_keep_one_number_of_the_stream_each(tmp_path: Path) -> None:
    chosen = recipe(tmp_path, checkpoint_blocks=True)
    sizes = []
    for n_layer in (1, 2, 7):
        options = chosen.changed({"n_layer": n_layer}, {})
        sizes.append(memory(Session.start(options.config(30), options.options()))["activations"])
    block = 4 * 16 * 24 * 4  # rows of a micro-batch, tokens, d_model, bytes
    assert [size - sizes[0] for size in sizes] == [0, block, 6 * block]
    plain = chosen.changed({"n_layer": 1}, {"checkpoint_blocks": False})
    assert memory(Session.start(plain.config(30), plain.options()))["activations"] + block == sizes[0]
