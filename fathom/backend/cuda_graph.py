"""One step of writing as one recorded piece of work: a GPU is given it whole, not kernel by kernel.

A step of a large model is some hundred kernels of microseconds; asking for each from Python takes longer than they do.
A recording (a CUDA graph) does the same work on the same memory every time, so nothing in it may depend on how many
tokens there are: here the clock of the cache is a tensor, and attention sees all places, those to come masked.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fathom.errors import ContextOverflow
from fathom.model.cache import NoCache
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer

WARM_UP = 3  # steps before the recording: kernels are chosen, compiled and loaded by the first
ALIGN = 64  # masked attention on a GPU wants a number of keys that is a multiple of 8; whole tiles are better still


class StaticCache(NoCache):
    """A KVCache whose clock lies on the device: each pass runs the same kernels on the same memory.

    `length` is not known to the host; `advance` moves `place`, the place of the next token. The caller sees to it that
    no more than `capacity` tokens come.
    """

    def __init__(
        self, config: ModelConfig, batch: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        config = config.resolved()
        shape = (batch, config.n_kv_head, capacity, config.head_dim)
        self.place = torch.zeros((), dtype=torch.int64, device=device)
        super().__init__(device)
        self.span = torch.arange(capacity, device=device)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.n_layer)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.n_layer)]

    def advance(self, t: int) -> None:
        self.place += t

    def positions(self, t: int) -> Tensor:  # (t,)
        return self.place + torch.arange(t, device=self.device)

    def visible(self, t: int) -> Tensor:
        """(t, capacity): a query sees itself and what came before it, of all the places there are."""
        return self.span <= self.positions(t)[:, None]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k and v (b, g, t, c) of the next t tokens; returns those of all places (b, g, capacity, c)."""
        places = self.positions(k.shape[2])
        self.keys[layer].index_copy_(2, places, k)
        self.values[layer].index_copy_(2, places, v)
        return self.keys[layer], self.values[layer]


class Recorded:
    """The logits that a model gives for one more token of each row, recorded once and then played back.

    compiled: also let torch.compile fuse what stands between the matrix products; takes a minute for a large model.
    Anywhere but on a CUDA device nothing is recorded, and each step runs as it is.
    """

    def __init__(self, model: Transformer, batch: int, length: int, compiled: bool = False) -> None:
        weight = model.embed.weight
        self.model, self.limit, self.length = model.eval(), length, 0
        self.cache = StaticCache(model.config, batch, -(-length // ALIGN) * ALIGN, weight.dtype, weight.device)
        self.ids = torch.zeros(batch, 1, dtype=torch.int64, device=weight.device)  # what a step reads
        self.logits = torch.empty(0)  # (b, V), what it says
        run = torch.compile(self.forward, dynamic=False, fullgraph=True) if compiled else self.forward
        self.play: Callable[[], object] = lambda: self.say(run)
        if weight.is_cuda:
            self.play = self.record()

    def forward(self, ids: Tensor) -> Tensor:  # (b, t) -> (b, V)
        return self.model.unembed(self.model.hidden(ids, self.cache)[:, -1])

    def say(self, run: Callable[[Tensor], Tensor]) -> None:
        self.logits = run(self.ids)

    @torch.no_grad()
    def record(self) -> Callable[[], object]:
        """Play the step a few times, then once more for the recording; the clock stands at 0 afterwards."""
        side = torch.cuda.Stream(self.ids.device)
        side.wait_stream(torch.cuda.current_stream(self.ids.device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self.play()
        torch.cuda.current_stream(self.ids.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.play()
        self.cache.place.zero_()
        return graph.replay

    @torch.no_grad()
    def read(self, ids: Tensor) -> Tensor:  # (b, t) -> (b, V)
        """The logits after a prompt, which is read as it is. ContextOverflow where it is too long."""
        self.admit(ids.shape[1])
        return self.forward(ids)

    @torch.no_grad()
    def step(self, ids: Tensor) -> Tensor:  # (b, 1) -> (b, V)
        """The logits after one more token of each row; valid until the next step."""
        self.admit(1)
        self.ids.copy_(ids)
        self.play()
        return self.logits

    def greedy(self, prompt: Tensor, n: int) -> Tensor:  # (b, t) -> (b, n)
        """The likeliest tokens, one after another; the host never waits for the device."""
        chosen = [self.read(prompt).argmax(-1, keepdim=True)]
        while len(chosen) < n:
            chosen.append(self.step(chosen[-1]).argmax(-1, keepdim=True))
        return torch.cat(chosen, 1)

    def forget(self) -> None:
        """Start again with nothing read."""
        self.cache.place.zero_()
        self.length = 0

    def admit(self, t: int) -> None:
        """Count t more tokens. ContextOverflow where they do not fit."""
        self.length += t
        self.model.position.check_length(self.length)
        if self.length > self.limit:
            raise ContextOverflow(f"{self.length} tokens are needed and there is room for {self.limit}; make it longer")
