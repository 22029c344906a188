"""What a work cannot do without, counted by hand: bytes that a token's step reads, FLOPs that a pass computes.

A multiply and an add are two FLOPs; products only, attention counted whole, as in model/cost. Does not measure.
"""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from torch import nn

from fathom.model.config import ModelConfig
from fathom.model.cost import cache_bytes, flops, matrices
from fathom.model.transformer import Transformer


@runtime_checkable
class Weighed(Protocol):
    """A layer that says how many bytes its packed weights take; a bias may stand beside them."""

    @property
    def nbytes(self) -> int: ...


def weight_bytes(model: nn.Module) -> int:
    """Of all weights that every step reads, as they are stored, scales included. Of an embedding it reads a row."""
    parts = [part for part in model.modules() if not isinstance(part, nn.Embedding)]
    packed = sum(part.nbytes for part in parts if isinstance(part, Weighed))
    floats = {id(p): p.nbytes for part in parts for p in part.parameters(recurse=False)}
    return packed + sum(floats.values())


def step_bytes(model: Transformer, rows: int, filled: float) -> float:
    """What one step of `rows` sequences reads with so many tokens in the cache: weights once, each row's cache."""
    per_token = cache_bytes(model.config, rows, 1, model.embed.weight.element_size())
    return weight_bytes(model) + per_token * filled


def prefill_flops(config: ModelConfig, length: int, rows: int, chunk: int) -> int:
    """Of reading `rows` prompts, `chunk` tokens at a time, and saying the token after the last."""
    total = flops(config, 1, rows)["unembed"]
    for past in range(0, length, chunk):
        count = flops(config, min(chunk, length - past), rows, past)
        total += sum(count.values()) - count["unembed"]
    return total


def finetune_flops(config: ModelConfig, length: int, rows: int, rank: int, targets: Iterable[str]) -> int:
    """Of a step of an adapter: frozen matrices take part forward and toward x, everything else has three products.

    targets: names of the blocks' matrices that are adapted, such as attn.q.
    """
    count, sizes = flops(config, length, rows), matrices(config)
    frozen = sum(n for name, n in count.items() if name in sizes or name == "unembed")
    pairs = sum(count.values()) - frozen
    width = sum(sum(sizes[name]) for name in targets)
    return 2 * frozen + 3 * pairs + 3 * 2 * length * rows * rank * width * config.n_layer
