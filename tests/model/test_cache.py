"""What a cache gives is what computing everything again gives, up to its last place, and an error past it."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.anatomy.cost import cache_bytes
from fathom.errors import ContextOverflow, FathomError
from fathom.model.cache import KVCache
from fathom.model.config import REWIND, Layers, ModelConfig, Rotary
from fathom.model.presets import LLAMA2_7B
from tests.architectures import ARCHITECTURES, BEYOND, GPT, LLAMA, ids_for, model_of

CACHED = {name: config for name, config in ARCHITECTURES.items() if config.norm != "none"}
every_cached = pytest.mark.parametrize("config", CACHED.values(), ids=CACHED.keys())


@given(
    name=st.sampled_from(sorted(CACHED)),
    cuts=st.sets(st.integers(1, 22), max_size=6),
    batch=st.integers(1, 3),
)
@settings(max_examples=60, derandomize=True)
@torch.no_grad()
def test_any_chunks_up_to_the_limit_equal_full_recompute(name: str, cuts: set[int], batch: int) -> None:
    config = CACHED[name]
    model, ids = model_of(config, std=0.1), ids_for(config, batch, t=config.context_length)
    cache, edges = KVCache(config, batch, config.context_length), [0, *sorted(cuts), config.context_length]
    parts = [model(ids[:, begin:end], cache) for begin, end in pairwise(edges)]
    assert cache.length == config.context_length
    assert (torch.cat(parts, dim=1) - model(ids)).abs().max() <= 5e-6


@every_cached
@torch.no_grad()
def test_a_token_at_a_time(config: ModelConfig) -> None:
    model, ids = model_of(config, std=0.1), ids_for(config, t=config.context_length)
    cache = KVCache(config, 2, config.context_length)
    parts = [model(ids[:, i : i + 1], cache) for i in range(config.context_length)]
    assert (torch.cat(parts, dim=1) - model(ids)).abs().max() <= 5e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes(dtype: torch.dtype) -> None:
    cache = KVCache(LLAMA, batch=5, length=13, dtype=dtype)
    assert cache.nbytes == 2 * 3 * 2 * 4 * 13 * 5 * dtype.itemsize
    assert KVCache(LLAMA2_7B, 1, 4096, dtype=torch.float16, device="meta").nbytes == 2 * 2**30


@torch.no_grad()
def test_past_the_end_of_the_cache() -> None:
    model, ids = model_of(LLAMA), ids_for(LLAMA)
    cache = KVCache(LLAMA, 2, 10)
    model(ids[:, :8], cache)
    with pytest.raises(ContextOverflow, match="holds 10 tokens and 11 are needed"):
        model(ids[:, 8:], cache)
    assert cache.length == 8  # the clock has not moved: what fits can still follow
    expected = model(ids[:, :10])[:, 8:]
    torch.testing.assert_close(model(ids[:, 8:10], cache), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_past_the_context_learned_positions_end_and_rope_goes_on() -> None:
    longer = {name: ids_for(config, 1, t=24) for name, config in (("gpt", GPT), ("llama", LLAMA))}
    gpt, llama = model_of(GPT), model_of(LLAMA)
    with pytest.raises(ContextOverflow, match="24 tokens, but this model has learned positions for 23"):
        gpt(longer["gpt"])
    cache = KVCache(GPT, 1, 30)
    gpt(longer["gpt"][:, :23], cache)
    with pytest.raises(ContextOverflow, match="learned positions for 23"):
        gpt(longer["gpt"][:, 23:], cache)
    cache = KVCache(LLAMA, 1, 24)
    parts = torch.cat((llama(longer["llama"][:, :20], cache), llama(longer["llama"][:, 20:], cache)), dim=1)
    torch.testing.assert_close(parts, llama(longer["llama"]), atol=1e-4, rtol=1e-4)


def test_the_past_carries_no_gradient() -> None:
    """Without no_grad a cached pass gives the same logits, and the cache holds on to no graph."""
    model, ids, cache = model_of(LLAMA), ids_for(LLAMA), KVCache(LLAMA, 2, 11)
    parts = torch.cat((model(ids[:, :6], cache), model(ids[:, 6:], cache)), dim=1)
    torch.testing.assert_close(parts, model(ids), atol=1e-4, rtol=1e-4)
    assert cache.store.grad_fn is None and not cache.store.requires_grad


@torch.no_grad()
def test_a_cache_of_the_models_dtype() -> None:
    model, ids = model_of(LLAMA, std=0.1).bfloat16(), ids_for(LLAMA)
    cache = KVCache(LLAMA, 2, 11, dtype=torch.bfloat16)
    parts = torch.cat((model(ids[:, :6], cache), model(ids[:, 6:], cache)), dim=1)
    torch.testing.assert_close(parts, model(ids), atol=0.05, rtol=0.05)


def test_no_layers_no_bytes() -> None:
    config = replace(LLAMA, n_layer=0)
    cache, model, ids = KVCache(config, 2, 11), model_of(config), ids_for(config)
    assert torch.equal(model(ids, cache), model(ids)) and cache.nbytes == 0 and cache.length == 11


@every_cached
@torch.no_grad()
def test_what_is_rewound_was_never_read(config: ModelConfig) -> None:
    """Tokens that turned out not to follow are read over, up to the cache's end."""
    model, ids = model_of(config, std=0.1), ids_for(config, 1, t=12)
    cache = KVCache(config, 1, 12)
    model(ids[:, :5], cache)
    model(ids_for(config, 1, t=7).flip(-1), cache)
    cache.rewind(5)
    assert (model(ids[:, 5:], cache) - model(ids)[:, 5:]).abs().max() <= 5e-6


def test_a_cache_is_not_rewound_to_what_it_has_not_read() -> None:
    cache = KVCache(LLAMA, 1, 12)
    cache.advance(5)
    for length in (6, -1):
        with pytest.raises(FathomError, match=f"has read 5 tokens and cannot go back to {length}"):
            cache.rewind(length)


WINDOWED = {
    "window": replace(LLAMA, layers=Layers("lg", 5), rope=Rotary(local_theta=50.0)),
    "windows alone": replace(GPT, layers=Layers("l", 1), position="alibi"),
    "never dropped": replace(LLAMA, layers=Layers("ln", 400)),
}


@pytest.mark.parametrize("config", WINDOWED.values(), ids=WINDOWED)
@torch.no_grad()
def test_layers_with_a_window_keep_it_alone(config: ModelConfig) -> None:
    """Far beyond the window, in pieces of every size and after going back, as if all had been kept."""
    length = 600
    config = replace(config, context_length=length)
    model, ids = model_of(config, std=0.1), ids_for(config, 2, length)
    whole = model(ids, KVCache(config, 2, length))  # one pass: nothing was dropped before it
    cache, at = KVCache(config, 2, length), 0
    for size in (3, 300, 1, 1, 64, 1, 120, *[1] * 30, 80):
        logits = model(ids[:, at : at + size], cache)
        torch.testing.assert_close(logits, whole[:, at : at + size], atol=1e-5, rtol=1e-5)
        at += size
        back = min(REWIND, at, 9 * size)
        cache.rewind(at - back)
        logits = model(ids[:, at - back : at], cache)
        torch.testing.assert_close(logits, whole[:, at - back : at], atol=1e-5, rtol=1e-5)
    assert cache.nbytes == cache_bytes(config, 2, length)


def test_a_window_is_less_memory_and_not_gone_back_beyond() -> None:
    config = replace(LLAMA, layers=Layers("lllg", 5), context_length=4096, n_layer=4)
    cache, plain = KVCache(config, 1, 4096), KVCache(replace(config, layers=Layers("g")), 1, 4096)
    assert cache.nbytes < 0.31 * plain.nbytes
    model, ids = model_of(config), ids_for(config, 1, 1000)
    with torch.no_grad():
        first = model(ids, cache)[:, :9]
    assert cache.can_rewind(1000 - REWIND) and not cache.can_rewind(500) and cache.can_rewind(0)
    with pytest.raises(FathomError, match="dropped what token 500 would see"):
        cache.rewind(500)
    cache.rewind(0)
    with torch.no_grad():
        torch.testing.assert_close(model(ids[:, :9], cache), first, atol=1e-5, rtol=1e-5)


def test_longrope_is_read_again_where_it_rotates_otherwise() -> None:
    config = BEYOND["longrope, beyond"]
    model, ids = model_of(config), ids_for(config, 1, 12)
    cache = KVCache(config, 1, 12)
    with torch.no_grad():
        model(ids[:, :6], cache)
        with pytest.raises(ContextOverflow, match="rotated otherwise than its first 6; read it whole"):
            model(ids[:, 6:], cache)
