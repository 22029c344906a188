"""What rotation does to one query and one key: angles and scores against the papers' formulas, and wrong layouts."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import fathom
from fathom.inspect.edit import edit
from fathom.inspect.identities import broken
from fathom.inspect.look import look
from fathom.inspect.rope_view import (
    Rotation,
    by_distance,
    changed,
    cosines,
    from_interleaved,
    other_angles,
    over_distance,
    pairs_moved,
    score_of,
    to_interleaved,
    turned,
)
from fathom.model.config import ModelConfig
from fathom.verification.layout import layout, rope_layout, weights_of
from tests import reference
from tests.architectures import ARCHITECTURES, BEYOND, LLAMA, ids_for, model_of

ROPE = {name: config for name, config in {**ARCHITECTURES, **BEYOND}.items() if config.position == "rope"}
every_rope = pytest.mark.parametrize("config", ROPE.values(), ids=ROPE.keys())
T, N = 12, 32


def base_and_scaling(config: ModelConfig, layer: int) -> tuple[float, object]:
    own = config.layers.kind(layer) == "l" and config.rope.local_theta is not None
    return (config.rope.local_theta, None) if own else (config.rope.theta, config.rope.scaling)


@every_rope
@torch.no_grad()
def test_angles_and_scores(config: ModelConfig) -> None:
    """Angles are the papers'; the score at the tokens' own places is the model's; C8; pairs add up to the score."""
    config = config.resolved()
    model = model_of(config)
    with look(model, "blocks.*.attn.q", "blocks.*.attn.k", "blocks.*.attn.scores") as seen:
        model(ids_for(config, 1, T))
    for layer in range(config.n_layer):
        path, rotation = f"blocks.{layer}.attn", Rotation(model, layer, T)
        q, k = seen[f"{path}.q"][0, 9], seen[f"{path}.k"][0, 7]
        shown = turned(rotation, 4, q, k, N)
        assert not broken("rotation_is_relative", shown.off), shown.off
        recorded = seen[f"{path}.scores"][0, 4, 9, 7].item()
        assert score_of(rotation, 4, q, k, 9, 7) == pytest.approx(recorded, abs=1e-5)
        far = over_distance(rotation, 4, q, k, torch.arange(N))
        assert torch.allclose(far, shown.scores[:, 0], atol=1e-5)
        assert torch.allclose(shown.parts.sum(-1), shown.scores[:, 0], atol=1e-5)
        if config.layers.kind(layer) == "n":
            assert not shown.frequency.any()
            continue
        base, scaling = base_and_scaling(config, layer)
        r = config.rope.rotated or config.head_dim
        expected = [reference.stretched(config, i, r, base, scaling, T) for i in range(r // 2)]
        assert np.allclose(shown.frequency, expected, rtol=1e-5)
        start, there = (torch.view_as_complex(x.contiguous().double()) for x in (shown.q, shown.q_at))
        moved = torch.polar(torch.ones(N, r // 2).double(), torch.arange(N)[:, None] * torch.tensor(expected).double())
        scale = reference.temperature(config, scaling)
        assert torch.allclose(there, start * moved * scale, atol=1e-4)


def test_angles_of_the_other_layout_break_the_distance() -> None:
    model = model_of(LLAMA)
    q, k = torch.randn(6, 4), torch.randn(2, 4)
    off = turned(Rotation(model, 0, T, other_angles(model)), 1, q, k, N).off
    assert broken("rotation_is_relative", off) == ["score depends on the distance", "rotation keeps norms"]


def test_another_base_and_scaling() -> None:
    model = model_of(LLAMA)
    wide = Rotation(model, 0, T, changed(model, theta=100.0)).frequency()
    assert wide.tolist() == pytest.approx([1.0, 0.1], rel=1e-6)
    stretched = Rotation(model, 0, T, changed(model, scaling="linear", factor=4.0)).frequency()
    assert torch.allclose(stretched, Rotation(model, 0, T).frequency() / 4)


def test_layouts_are_each_others_inverse() -> None:
    x = torch.arange(8.0)
    assert to_interleaved(x).tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert torch.equal(from_interleaved(to_interleaved(x)), x)


def test_a_wrong_conversion_is_found(shared_data: Path) -> None:
    """As loaded the layout is right; as a file of the other layout would be read, weights and text say so."""
    model, tokenizer = fathom.load(shared_data / "stories260K" / "stories260K.bin", device="cpu")
    assert tokenizer is not None
    text = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park with her dog."
    ids = torch.tensor(tokenizer.encode(text))
    found = layout(model, [ids])
    assert found is not None and found.verdict == "right"
    with edit(model, *pairs_moved(to_interleaved)):
        wrong = layout(model, [ids])
    assert wrong is not None and wrong.lead < -4 and wrong.verdict == "wrong"
    packed, _ = fathom.load(shared_data / "stories260K" / "stories260K.bin", device="cpu", quantize="int8")
    told = rope_layout(packed.config, weights_of(packed))
    assert told is not None and told.verdict == "half-split"


def test_means_by_distance() -> None:
    x = torch.randn(3, 5, 5)
    x[:, torch.ones(5, 5, dtype=torch.bool).triu(1)] = -math.inf
    x[:, 4, 0] = -math.inf  # outside a window
    shown = by_distance(x)
    assert shown.shape == (3, 5) and shown[:, 4].isnan().all()
    for distance in range(4):
        assert torch.allclose(shown[:, distance], x.diagonal(-distance, 1, 2).mean(-1), atol=1e-6)


def test_cosines() -> None:
    rows = torch.randn(7, 5)
    expected = np.corrcoef(np.hstack((rows.numpy(), -rows.numpy())))  # of centred rows the correlation is the cosine
    assert np.allclose(cosines(rows), expected, atol=1e-5)
