"""Grouped queries: which heads share keys and values, that sharing is repeating, and what it saves."""

import statistics
import time
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from fathom.anatomy.cost import BIAS_OF, cache_bytes, matrices
from fathom.inspect.derived import Tensors
from fathom.inspect.names import names
from fathom.model.attention import Soft, attend, attend_fused
from fathom.model.cache import NoCache
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer

Fault = Literal["tile"]
MOST_KEYS, REPEATS = 4096, 7  # of a measurement of time


def groups(n_head: int, n_kv_head: int) -> Tensor:
    """(h,) the key and value head that each query head reads: neighbours share."""
    return torch.arange(n_head) * n_kv_head // n_head


def tiled(n_head: int, n_kv_head: int) -> Tensor:
    """(h,) wrong on purpose: every n_kv_head-th query head shares, as torch's `tile` would have it."""
    return torch.arange(n_head) % n_kv_head


def read(model: Transformer, layer: int) -> dict[str, str]:
    """The names of what the attention of a layer computes with: q and k after all that happens to them, v, z."""
    path, known = f"blocks.{layer}.attn", names(model.config)
    last = {x: f"{path}.{x}_rot" if f"{path}.{x}_rot" in known else f"{path}.{x}" for x in "qk"}
    return last | {"v": f"{path}.v", "z": f"{path}.z"}


def repeated(model: Transformer, layer: int, seen: Tensors, own: Tensor) -> Tensor:
    """z (b, t, h, c) of multi-head attention with as many keys and values as queries: those of the groups `own` (h,)
    repeated."""
    q, k, v = (seen[read(model, layer)[x]].transpose(1, 2) for x in "qkv")  # (b, h, t, c), (b, g, t, c)
    t, block = q.shape[2], model.blocks[layer]
    cache = NoCache(q.device)
    visible = model.views(cache.positions(t), cache, t, t)[block.kind][1]
    soft = Soft(block.attn.cap, block.attn.sinks)
    return attend(q, k[:, own], v[:, own], visible, 0.0, soft=soft).transpose(1, 2)


def grouped_is_repeated(model: Transformer, layer: int, seen: Tensors, own: Tensor) -> float:
    """C10 on one layer: how far the model's z is from that with repeated keys and values, where it is large relative to
    its largest."""
    z = seen[read(model, layer)["z"]]
    return (repeated(model, layer, seen, own) - z).abs().max().item() / max(1.0, z.abs().max().item())


def choices(n_head: int) -> list[int]:
    """How many key and value heads there may be: the divisors of n_head."""
    return [g for g in range(1, n_head + 1) if n_head % g == 0]


def bytes_with(config: ModelConfig, g: int, length: int, itemsize: int) -> int:
    """Of a cache for `length` tokens, were there g key and value heads."""
    return cache_bytes(replace(config.resolved(), n_kv_head=g), 1, length, itemsize)


def parameters_with(config: ModelConfig, g: int) -> int:
    """Of the projections to keys and values of all layers, were there g heads of each."""
    config = replace(config.resolved(), n_kv_head=g)
    sizes = {
        name: (rows, columns) for name, (rows, columns) in matrices(config).items() if name in ("attn.k", "attn.v")
    }
    return config.n_layer * sum(
        (rows + (BIAS_OF[name] in config.bias)) * columns for name, (rows, columns) in sizes.items()
    )


@torch.no_grad()
def seconds_with(config: ModelConfig, g: int, keys: int, dtype: torch.dtype, device: torch.device) -> float:
    """Measured: the attention of one layer for one new token over this many cached ones, with g key and value heads of
    random numbers; the median of some calls."""
    config, keys = config.resolved(), min(keys, MOST_KEYS)
    q = torch.randn(1, config.n_head, 1, config.head_dim, dtype=dtype, device=device)
    k, v = torch.randn(2, 1, g, keys, config.head_dim, dtype=dtype, device=device)
    taken = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        attend_fused(q, k, v, None, 0.0)[0, 0, 0, 0].item()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])
