"""Decoding on a GPU: one more token of each row is a CUDA graph, launched whole and not kernel by kernel.

A step of a large model is some hundred kernels of microseconds each; launching them from Python takes longer than they
do. A graph repeats the same work on the same memory, so nothing in it may depend on the number of tokens so far: the
position is a tensor, and attention reads the whole cache, with what is still to come masked.
"""

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from fathom.anatomy.swap import kind_of, what_is
from fathom.backend.matvec import MatvecInt4, MatvecLinear
from fathom.backend.memory import Cache
from fathom.errors import FathomError
from fathom.model.attention import Attention, attend, attend_fused
from fathom.model.cache import KVCache
from fathom.model.config import ModelConfig
from fathom.model.ends import ScaledEmbedding, ScaledUnembed
from fathom.model.mlp import MLPS
from fathom.model.norm import HeadsLayerNorm, LayerNorm, LayerNorm1P, RMSNorm, RMSNorm1P, WholeRMSNorm
from fathom.model.position import LearnedPosition, NoPosition, Rope
from fathom.model.transformer import Add, Block, Parallel, Replace, Transformer
from fathom.quant.linear import QuantLinear, QuantUnembed

WARM_UP = 3  # passes before a recording: the first ones choose, compile and load kernels
ALIGN = 64  # masked attention on a GPU wants a number of keys that is a multiple of 8; whole tiles are better still
RECORDABLE = {  # parts that run the same kernels every time; others may decide in Python, which a graph does not run
    *(
        nn.Embedding,
        nn.Dropout,
        nn.Identity,
        nn.ModuleList,
        nn.Linear,
        MatvecLinear,
        QuantLinear,
        QuantUnembed,
        MatvecInt4,
    ),
    *(Block, Parallel, Add, Replace, ScaledEmbedding, ScaledUnembed, Attention, *MLPS.values()),
    *(LayerNorm, RMSNorm, WholeRMSNorm, LayerNorm1P, RMSNorm1P, HeadsLayerNorm),
    *(NoPosition, LearnedPosition, Rope),
}


class StaticCache(KVCache):
    """A KVCache over which one more token runs the same kernels on the same memory, however many came before.

    `place` (): `length` on the device. Passes of several tokens run as over any KVCache.
    """

    recording: "Recording | None" = None  # of a step over this memory

    def __init__(self, config: ModelConfig, batch: int, length: int, *others: Any, **named: Any) -> None:
        super().__init__(config, batch, -(-length // ALIGN) * ALIGN, *others, **named)
        self.every = torch.arange(self.capacity, device=self.device)
        self.place = torch.zeros((), dtype=torch.int64, device=self.device)
        self.capacity = length

    def positions(self, t: int) -> Tensor:
        if t != 1:
            return super().positions(t)
        return self.place[None]  # (1,)

    def visible(self, t: int, window: int | None = None) -> Tensor | None:
        """Of one token: (1, all places of the store)."""
        if t != 1:
            return super().visible(t, window)
        return (self.every <= self.place)[None]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k and v (b, g, t, c); returns those so far (b, g, s, c), and for one token those of all places."""
        if k.shape[2] != 1:
            return super().append(layer, k, v)
        self.require_room(1)
        for stored, new in zip(self.store[layer], (k, v)):
            stored.index_copy_(2, self.place[None], new.detach().to(stored.dtype))
        return self.store[layer, 0], self.store[layer, 1]

    def advance(self, t: int) -> None:
        super().advance(t)
        self.place.fill_(self.length)

    def rewind(self, length: int) -> None:
        super().rewind(length)
        self.place.fill_(length)


class RecordedStep:
    """`hidden` of a model for one more token of each row: recorded at the first step over a cache, then replayed."""

    status, cache = "CUDA graphs", StaticCache

    def __init__(self, model: Transformer) -> None:
        """FathomError, in one line, where a part of the model cannot be recorded."""
        scaling = model.config.rope.scaling
        if model.config.windowed or (scaling is not None and scaling.kind == "longrope"):
            raise FathomError("layers with a window, and longrope, compute otherwise as the text grows")
        for name, part in model.named_modules():
            if name and kind_of(part) not in RECORDABLE:
                raise FathomError(what_is(name, part))
        for layer, block in enumerate(model.blocks):
            if block.attn.attend not in (attend, attend_fused):
                raise FathomError(f"blocks.{layer}.attn calls another function than attend")
        self.model = weakref.ref(model)  # which holds this step

    def takes(self, ids: Tensor, cache: Cache) -> bool:
        return isinstance(cache, StaticCache) and ids.shape == (cache.store.shape[2], 1)

    @torch.no_grad()
    def __call__(self, ids: Tensor, cache: StaticCache) -> Tensor:
        """ids (b, 1) -> (b, 1, d), and the cache advanced by 1."""
        cache.require_room(1)
        if not ids.is_cuda:  # there is nothing to record on: each step runs as it is
            return self.hidden(ids, cache)
        if cache.recording is None or cache.recording.step is not self:
            cache.recording = Recording(self, ids, cache)
        return cache.recording(ids, cache)

    def hidden(self, ids: Tensor, cache: StaticCache) -> Tensor:
        model = self.model()
        if model is None:
            raise RuntimeError("the model of this recorded step no longer exists")
        return Transformer.hidden(model, ids, cache)


class Recording:
    """A CUDA graph of one step over one cache, whose memory it reads and writes."""

    def __init__(self, step: RecordedStep, ids: Tensor, cache: StaticCache) -> None:
        self.step, self.ids, self.graph, length = step, ids.clone(), torch.cuda.CUDAGraph(), cache.length
        side = torch.cuda.Stream(ids.device)
        side.wait_stream(torch.cuda.current_stream(ids.device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                step.hidden(self.ids, cache)
                cache.rewind(length)
        torch.cuda.current_stream(ids.device).wait_stream(side)
        with torch.cuda.graph(self.graph):
            self.hidden = step.hidden(self.ids, cache)
        cache.rewind(length)

    def __call__(self, ids: Tensor, cache: StaticCache) -> Tensor:
        self.ids.copy_(ids)
        self.graph.replay()
        cache.advance(1)  # in the graph the clock moved to where it was recorded; the host's is the one that counts
        return self.hidden.clone()
