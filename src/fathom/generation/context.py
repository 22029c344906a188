"""Which tokens the model reads for the next one, and how: with a KV cache, or by recomputing the whole window.

Once `room` tokens are in the window its older half is dropped and the rest is read again from position 0, as in
training, so that each token follows from at least half a context.
"""

import sys
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from fathom.anatomy.cost import cache_bytes
from fathom.backend.inference import cache_for
from fathom.errors import ContextOverflow, FathomError
from fathom.generation.options import GenerateOptions, PastContext
from fathom.machine import free_memory
from fathom.model.cache import KVCache
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from fathom.words import counted


class Window:
    """The tokens of one row that the model sees. `room` None: unlimited."""

    def __init__(self, ids: Sequence[int], room: int | None, slides: bool) -> None:
        self.ids, self.room, self.slides = list(ids), room, slides
        self.dropped = 0

    def append(self, token: int) -> None:
        self.ids.append(token)
        if self.full and self.slides:
            keep = max(1, len(self.ids) // 2)
            self.dropped += len(self.ids) - keep
            self.ids = self.ids[-keep:]

    @property
    def full(self) -> bool:
        """More tokens than fit: nothing can follow."""
        return self.room is not None and len(self.ids) > self.room


def room_for(config: ModelConfig, past_context: PastContext, longest: int) -> int | None:
    """How many tokens a window may hold; ContextOverflow where the longest prompt alone is longer."""
    learned = config.position == "learned"
    if past_context == "extend" and learned:
        raise FathomError(
            f"past_context is 'extend', but this model has learned positions for {config.context_length} tokens and"
            " none beyond; use slide or stop"
        )
    if past_context == "extend":
        return None
    if longest > config.context_length:
        raise ContextOverflow(
            f"the prompt has {counted(longest, 'token')} and the context is {config.context_length}; shorten it"
            + ("" if learned else ", or go beyond the trained length with past_context='extend'")
        )
    return config.context_length


class Reader(Protocol):
    """Runs the model on windows of tokens."""

    nbytes: int  # of the cache

    def logits(self, windows: Sequence[Window]) -> Tensor:
        """(b, V) logits of the token after each window."""

    def spare(self, window: Window) -> int:
        """How many draft tokens can follow this window, the only one, in the same pass."""

    def ahead(self, window: Window, draft: Sequence[int]) -> Tensor:
        """(1 + k, V) logits of the token after the window and after each of k draft tokens."""

    def rewind(self, count: int) -> None:
        """Discard the last `count` tokens of the draft: they were rejected."""


class Recompute:
    """The whole window through the model for every token: slow, and the reference for the cache."""

    nbytes = 0

    def __init__(self, model: Transformer) -> None:
        self.model = model

    def logits(self, windows: Sequence[Window]) -> Tensor:
        device = self.model.embed.weight.device
        last = [self.model.hidden(torch.tensor([window.ids], device=device))[:, -1] for window in windows]
        return self.model.unembed(torch.cat(last))  # (b, d) -> (b, V)

    def spare(self, window: Window) -> int:
        return sys.maxsize if window.room is None else window.room - len(window.ids)

    def ahead(self, window: Window, draft: Sequence[int]) -> Tensor:
        ids = torch.tensor([[*window.ids, *draft]], device=self.model.embed.weight.device)
        return self.model.unembed(self.model.hidden(ids)[0, -1 - len(draft) :])  # (1 + k, d) -> (1 + k, V)

    def rewind(self, count: int) -> None:
        pass


class Cached:
    """Every token goes through the model once, all rows in one batch; shorter ones are padded on the left.

    capacity: the most tokens a window will hold. chunk: how many tokens of a prompt are read at a time.
    """

    def __init__(self, model: Transformer, capacity: int, chunk: int) -> None:
        self.model, self.capacity, self.chunk = model, capacity, chunk
        self.device, self.dtype = model.embed.weight.device, model.embed.weight.dtype
        self.rows: list[Window] = []  # the window of each row of the cache
        self.cache = KVCache(model.config, 0, 0)
        self.nbytes = 0

    def logits(self, windows: Sequence[Window]) -> Tensor:
        past = self.cache.length
        # read again at the start, whenever a window has slid, and where a longer text is rotated otherwise
        full = not self.cache.room or not self.model.position.continues(past, past + 1)
        return self.model.unembed(self.prefill(windows) if full else self.step(windows))  # (b, d) -> (b, V)

    def spare(self, window: Window) -> int:
        spare = self.capacity - len(window.ids) if self.cache.room else 0
        return spare if self.model.position.continues(self.cache.length, self.cache.length + spare) else 0

    def ahead(self, window: Window, draft: Sequence[int]) -> Tensor:
        ids = torch.tensor([[window.ids[-1], *draft]], device=self.device)  # (1, 1 + k)
        return self.model.unembed(self.model.hidden(ids, self.cache)[0])  # (1 + k, d) -> (1 + k, V)

    def rewind(self, count: int) -> None:
        self.cache.rewind(self.cache.length - count)

    def step(self, windows: Sequence[Window]) -> Tensor:  # -> (b, d)
        """Read the one new token of each row."""
        if len(windows) < len(self.rows):  # some have ended
            self.cache.select(torch.tensor([self.rows.index(window) for window in windows]))
            self.rows = list(windows)
        ids = torch.tensor([window.ids[-1:] for window in windows], device=self.device)  # (b, 1)
        return self.model.hidden(ids, self.cache)[:, -1]

    def prefill(self, windows: Sequence[Window]) -> Tensor:  # -> (b, d)
        """Read each window into a new cache, samples of one prompt once, `chunk` tokens at a time."""
        texts = list(dict.fromkeys(tuple(window.ids) for window in windows))
        longest = max(map(len, texts))
        padding = [longest - len(text) for text in texts]
        ids = torch.tensor([[0] * pad + list(text) for pad, text in zip(padding, texts)], device=self.device)  # (b, t)
        self.cache = self.make_cache(len(texts), len(windows), torch.tensor(padding) if any(padding) else None)
        self.cache.horizon = longest
        for chunk in ids.split(self.chunk, dim=1):
            hidden = self.model.hidden(chunk, self.cache)[:, -1]  # (b, d)
        rows = torch.tensor([texts.index(tuple(window.ids)) for window in windows])
        if len(texts) < len(windows):
            self.cache.select(rows)
        self.rows, self.nbytes = list(windows), max(self.nbytes, self.cache.nbytes)
        return hidden[rows.to(self.device)]

    def make_cache(self, batch: int, rows: int, padding: Tensor | None) -> KVCache:
        """An empty cache for `batch` texts; FathomError without memory for the `rows` that are sampled from them."""
        config = self.model.config
        fits(config, rows, self.capacity, self.dtype, self.device)
        self.cache = KVCache(config, 0, 0)  # free the old one first
        return cache_for(self.model, batch, self.capacity, padding)


def fits(config: ModelConfig, rows: int, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
    """FathomError where there is no memory for a cache of this many rows and tokens."""
    needed, free = cache_bytes(config, rows, capacity, dtype.itemsize), free_memory(device)
    if free is not None and needed > free:
        raise FathomError(
            f"the cache of {rows:,} x {counted(capacity, 'token')} needs {needed / 2**20:,.0f} MiB and"
            f" {free / 2**20:,.0f} MiB are free; generate fewer tokens or samples"
        )


def make_reader(model: Transformer, options: GenerateOptions, longest: int, room: int | None) -> Reader:
    """With `use_cache` a cache that holds the largest window; the last new token is never read."""
    needed = longest + options.max_new_tokens - 1
    if not options.use_cache:
        return Recompute(model)
    return Cached(model, needed if room is None else min(needed, room), options.prefill_chunk)
