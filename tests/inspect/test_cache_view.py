"""Generation with and without a cache is one generation, in every architecture; each wrong cache is found out."""

import math
from dataclasses import replace

import pytest
from torch import Tensor

from fathom.anatomy.cost import cache_bytes
from fathom.inspect.cache_view import (
    Fault,
    Step,
    bytes_off,
    cache_for,
    cached_equals_uncached,
    held_bytes,
    no_effect,
    room_after,
    side_by_side,
    steps,
)
from fathom.inspect.identities import TOLERANCES
from fathom.model.config import ModelConfig
from tests.architectures import ARCHITECTURES, BEYOND, GPT, LLAMA, ids_for, model_of

EVERY = {**ARCHITECTURES, **BEYOND}
every_architecture = pytest.mark.parametrize("config", EVERY.values(), ids=EVERY.keys())
ALLOWED = TOLERANCES["cache_equals_recompute"]


def likeliest(logits: Tensor) -> int:
    return int(logits.argmax())


def both(config: ModelConfig, fault: Fault | None = None) -> list[tuple[Step, Step, float]]:
    model, ids = model_of(config, std=0.4 if fault else 0.2), ids_for(config, 1, 11)
    cached, plain = steps(model, ids, 8, likeliest, True, fault), steps(model, ids, 8, likeliest, False)
    return list(side_by_side(cached, plain))


@every_architecture
def test_cached_is_uncached(config: ModelConfig) -> None:
    shown = both(config)
    assert len(shown) == 8
    off = cached_equals_uncached(shown)
    assert (
        off["cached logits = uncached"] <= ALLOWED["cached logits = uncached"] and not off["cached tokens = uncached"]
    )
    assert [one.made for one, _, _ in shown] == [11] + [1] * 7 and [two.made for _, two, _ in shown] == [*range(11, 19)]
    assert [one.reused for one, _, _ in shown] == [0, *range(11, 18)] and not any(two.reused for _, two, _ in shown)
    per_token = cache_bytes(config, 1, 1)
    assert [one.n_bytes for one, _, _ in shown] == [per_token * n for n in range(11, 19)]


@pytest.mark.parametrize("fault", ["offset", "mask", "unrotated"])
@every_architecture
def test_a_wrong_cache_is_found(config: ModelConfig, fault: Fault) -> None:
    off = cached_equals_uncached(both(config, fault))["cached logits = uncached"]
    if no_effect(model_of(config), fault, 11):
        assert off < 1e-3
    else:
        assert off > 1e-3


def test_what_has_no_effect_is_explained() -> None:
    assert "alibi" in no_effect(model_of(ARCHITECTURES["alibi"]), "offset", 11)
    assert "not rotated" in no_effect(model_of(GPT), "unrotated", 11)
    assert "no attention" in no_effect(model_of(ARCHITECTURES["bigram"]), "mask", 11)
    assert not no_effect(model_of(LLAMA), "offset", 11) and not no_effect(model_of(LLAMA), None, 11)


def test_a_damaged_pass_is_not_equal() -> None:
    model, ids = model_of(LLAMA), ids_for(LLAMA, 1, 5)
    shown = [(one, two, math.nan) for one, two, _ in both(LLAMA)]
    assert math.isnan(cached_equals_uncached(shown)["cached logits = uncached"])
    assert next(steps(model, ids, 1, likeliest)).made == 5


def test_stops_within_a_token() -> None:
    model, ids, passes = model_of(LLAMA), ids_for(LLAMA, 1, 5), 0
    model.blocks[0].register_forward_pre_hook(lambda *_: passes_up())

    def passes_up() -> None:
        nonlocal passes
        passes += 1

    running = steps(model, ids, 10, likeliest)
    for _ in range(3):
        next(running)
    running.close()
    assert passes == 3


@pytest.mark.parametrize("name", ["llama", "gpt", "multi-query", "window", "bigram"])
def test_bytes(name: str) -> None:
    model = model_of(ARCHITECTURES[name])
    cache = cache_for(model, 19)
    assert bytes_off(cache, model.config) == 0 and held_bytes(cache) == 0
    assert bytes_off(cache, replace(model.config, n_layer=model.config.n_layer + 1)) > 0


def test_ends_with_the_context() -> None:
    model = model_of(GPT)
    for fault in (None, "offset"):
        assert len(list(steps(model, ids_for(GPT, 1, 20), 8, likeliest, True, fault))) == GPT.context_length - 20
    assert room_after(model, GPT.context_length) == 0
    long = model_of(BEYOND["longrope, beyond"])
    assert room_after(long, 4) == 3 and room_after(long, 9) == long.config.context_length - 9
