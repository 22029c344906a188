"""Decoding and prefill: what `fathom generate` asks of a model, without text and sampling.

decode: new tokens one after another, the likeliest each time, behind a cache that is filled with random keys and
values: what stands in it does not change the time, and nothing has to be read for it. prefill: a prompt of random ids
into an empty cache, and the token after it. Does not know limits.
"""

import time

import torch
from torch import Tensor

from fathom.bench.options import UNCOUNTED, BenchOptions
from fathom.bench.probes import seconds, settle
from fathom.fast.quicken import quicken
from fathom.generate.options import GenerateOptions
from fathom.model.cache import KVCache
from fathom.model.transformer import Transformer

CHUNK = GenerateOptions.prefill_chunk


def prepare(model: Transformer) -> Transformer:
    """The model as generation runs it."""
    return quicken(model)


@torch.no_grad()
def decode(model: Transformer, options: BenchOptions) -> tuple[float, ...]:
    """Tokens per second of each round, over all rows."""
    model.position.admit(options.length + options.new)
    cache = empty_cache(model, options.rows, options.length + options.new)
    cache.store.normal_()
    ids = random_ids(model, options.rows, 1)
    counted = options.rows * (options.new - UNCOUNTED)
    return tuple(counted / decoded(model, cache, ids, options) for _ in range(options.repeat))


def decoded(model: Transformer, cache: KVCache, ids: Tensor, options: BenchOptions) -> float:
    """Seconds of the counted steps."""
    cache.length, began = options.length, 0.0
    for step in range(options.new):
        if step == UNCOUNTED:
            settle(ids.device)
            began = time.perf_counter()
        ids = model.unembed(model.hidden(ids, cache)[:, -1]).float().argmax(-1, keepdim=True)  # (b, 1)
    settle(ids.device)
    return time.perf_counter() - began


def mean_filled(options: BenchOptions) -> float:
    """Tokens in the cache that a counted step of decoding reads, its own included, on average."""
    return options.length + 1 + (UNCOUNTED + options.new - 1) / 2


@torch.no_grad()
def prefill(model: Transformer, options: BenchOptions) -> tuple[float, ...]:
    """Tokens per second of each round, over all rows."""
    model.position.admit(options.length)
    cache = empty_cache(model, options.rows, options.length)
    ids = random_ids(model, options.rows, options.length)
    device = ids.device
    seconds(lambda: read(model, cache, ids), device)  # to warm up
    rounds = [seconds(lambda: read(model, cache, ids), device) for _ in range(options.repeat)]
    return tuple(ids.numel() / taken for taken in rounds)


def read(model: Transformer, cache: KVCache, ids: Tensor) -> Tensor:
    """(b, t) prompts into the cache, from its beginning -> (b,) the likeliest next tokens."""
    cache.length = 0
    for chunk in ids.split(CHUNK, dim=1):
        x = model.hidden(chunk, cache)[:, -1]  # (b, d)
    return model.unembed(x).argmax(-1)


def empty_cache(model: Transformer, rows: int, length: int) -> KVCache:
    weight = model.embed.weight
    return KVCache(model.config, rows, length, dtype=weight.dtype, device=weight.device)


def random_ids(model: Transformer, rows: int, length: int) -> Tensor:
    return torch.randint(model.config.vocab_size, (rows, length), device=model.embed.weight.device)
