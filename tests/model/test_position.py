"""How a token knows its position: rotations by complex numbers and scalings one frequency at a time."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.inspect.identities import broken, rotation_is_relative
from fathom.model.config import ModelConfig, RopeScaling, Rotary
from fathom.model.position import Alibi, LearnedPosition, NoPosition, Rope, frequencies, make_position, rope_scale
from fathom.model.transformer import Transformer
from tests.architectures import GPT, LLAMA, ids_for, model_of, scalings
from tests.reference import stretched
from tests.reference import temperature as published_temperature

LONG = replace(LLAMA, context_length=4096, head_dim=64, n_kv_head=6)


@given(
    scaling=st.none() | scalings(),
    head_dim=st.sampled_from([2, 4, 10, 64]),
    shift=st.integers(0, 100),
    theta=st.sampled_from([100.0, 10_000.0, 500_000.0]),
)
@settings(max_examples=60, derandomize=True)
def test_the_score_depends_on_the_distance_alone(
    scaling: RopeScaling | None, head_dim: int, shift: int, theta: float
) -> None:
    rope = Rope(replace(LLAMA, head_dim=head_dim, rope=Rotary(theta=theta, scaling=scaling)).resolved())
    q, k = torch.randn(2, 1, 3, 9, head_dim)
    assert not broken("rotation_is_relative", rotation_is_relative(rope, q, k, shift))


def test_far_out_the_angles_hold() -> None:
    """fp32 angles of positions near 4,000 are good to about 1e-4."""
    q, k = torch.randn(2, 1, 2, 32, 64)
    residuals = rotation_is_relative(Rope(LONG.resolved()), q, k, shift=4000)
    assert max(residuals.values()) < 5e-3


@given(scaling=st.none() | scalings(), head_dim=st.sampled_from([2, 6, 64]), context=st.sampled_from([16, 512, 4096]))
@settings(max_examples=100, derandomize=True)
def test_frequencies_one_at_a_time(scaling: RopeScaling | None, head_dim: int, context: int) -> None:
    config = replace(LLAMA, head_dim=head_dim, context_length=context, rope=Rotary(scaling=scaling)).resolved()
    rotate = (head_dim, config.rope.theta, scaling, 1)
    expected = torch.tensor([stretched(config, i, *rotate) for i in range(head_dim // 2)], dtype=torch.float64)
    torch.testing.assert_close(frequencies(config).double(), expected, rtol=2e-6, atol=1e-9)
    assert rope_scale(config) == pytest.approx(published_temperature(config, scaling))


def test_llama3_bands() -> None:
    """Llama 3.1 8B: short wavelengths stay, those beyond 8,192 turn 8 times as slowly."""
    scaling = RopeScaling(kind="llama3", factor=8.0, original_context_length=8192)
    config = replace(
        LONG, head_dim=128, rope=Rotary(theta=500_000.0, scaling=scaling), context_length=131_072
    ).resolved()
    plain, scaled = frequencies(replace(config, rope=Rotary(theta=500_000.0))), frequencies(config)
    wavelength = 2 * math.pi / plain
    assert torch.equal(scaled[wavelength < 2048], plain[wavelength < 2048])
    torch.testing.assert_close(scaled[wavelength > 8192], plain[wavelength > 8192] / 8)
    between = (wavelength > 2048) & (wavelength < 8192)
    assert between.any() and (scaled[between] < plain[between]).all() and (scaled[between] > plain[between] / 8).all()


def test_yarn_bands() -> None:
    scaling = RopeScaling(kind="yarn", factor=4.0, original_context_length=4096)
    config = replace(LONG, head_dim=128, rope=Rotary(scaling=scaling)).resolved()
    ratio = frequencies(config) / frequencies(replace(config, rope=Rotary()))
    turns = 4096 * frequencies(replace(config, rope=Rotary())) / (2 * math.pi)
    assert (ratio[turns > 40] == 1).all() and ratio[turns < 0.8].sub(0.25).abs().max() < 1e-6
    assert (ratio.diff() <= 1e-6).all()
    assert rope_scale(config) == pytest.approx(0.1 * math.log(4) + 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("cast", [Transformer.to, Transformer.type])
def test_angles_stay_fp32_whatever_the_models_dtype(cast: Callable[..., object], dtype: torch.dtype) -> None:
    model = model_of(LLAMA)
    before = model.position.frequency.clone()  # type: ignore[union-attr,operator]
    cast(model, dtype)
    assert model.position.frequency.dtype == torch.float32  # type: ignore[union-attr]
    assert torch.equal(model.position.frequency, before)  # type: ignore[arg-type]
    assert model.embed.weight.dtype == dtype


def test_bf16_queries_are_turned_by_fp32_angles() -> None:
    rope, x = Rope(LONG.resolved()), torch.randn(1, 1, 64, 64)
    positions = torch.arange(4000, 4064)
    exact, rounded = rope.rotation(positions)(x), rope.rotation(positions)(x.bfloat16())
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, atol=0.04, rtol=0.0)


def test_from_meta_to_a_device() -> None:
    """A model built on meta and given memory later still has its angles."""
    with torch.device("meta"):
        model = Transformer(LLAMA)
    assert model.embed.weight.is_meta
    model = model.to_empty(device="cpu")
    assert torch.equal(model.position.frequency, frequencies(LLAMA.resolved()))  # type: ignore[arg-type]
    source = model_of(LLAMA)
    model.load_state_dict(source.state_dict())
    ids = ids_for(LLAMA)
    assert torch.equal(model.eval()(ids), source(ids))


def test_tables_are_not_weights() -> None:
    assert not any("position" in name for name in Transformer(LLAMA).state_dict())
    assert "position.table.weight" in Transformer(GPT).state_dict()


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (replace(LLAMA, position="none"), NoPosition),
        (GPT, LearnedPosition),
        (LLAMA, Rope),
        (replace(LLAMA, position="alibi"), Alibi),
    ],
)
def test_each_choice(config: ModelConfig, kind: type) -> None:
    assert type(make_position(config.resolved())) is kind


@torch.no_grad()
def test_without_position_order_is_invisible_to_the_last_token() -> None:
    """One layer without positions sees a bag; with them it does not."""
    ids = ids_for(LLAMA, 1)
    swapped = ids[:, [1, 0, *range(2, 11)]]
    for position, same in (("none", True), ("learned", False), ("rope", False)):
        model = model_of(replace(LLAMA, n_layer=1, position=position))  # type: ignore[arg-type]
        difference = (model(ids)[:, -1] - model(swapped)[:, -1]).abs().max()
        assert (difference < 1e-5) is same or (difference > 1e-3) is not same, position
