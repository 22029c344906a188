"""A cache in one piece for one text after another: what the next one begins with alike is not read again.

Beside pages it is simpler, a GPU may record its steps, and layers with a window keep no more than that; but it holds
one text at a time.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fathom.anatomy.cost import cache_bytes
from fathom.backend.inference import cache_for
from fathom.errors import FathomError
from fathom.machine import free_memory
from fathom.model.cache import KVCache
from fathom.model.transformer import Transformer
from fathom.words import counted


class OnePiece:
    """The next text is read from where it differs from the last; all of it, where layers with a window have forgotten
    what is seen from there."""

    def __init__(self, model: Transformer) -> None:
        self.model, self.cache = model, KVCache(model.config, 0, 0)
        self.ids = list[int]()  # the tokens in the cache
        self.key: object = None

    @property
    def nbytes(self) -> int:
        return self.cache.nbytes

    def begin(self, text: Sequence[int], most: int, longest: int = 0, adapter: str | None = None) -> int:
        """Make room for a text of up to `most` tokens, and forget what it does not begin with; how many of its tokens
        need no reading. The last one always does. longest: it is rotated as a text of so many tokens, if it is shorter.
        """
        longest = max(longest, len(text))
        key, same = (adapter, stretched(self.model, longest)), min(shared(self.ids, text), max(0, len(text) - 1))
        if key != self.key or not self.cache.can_rewind(same):
            same = 0
        if most > self.cache.capacity:
            same = self.grow(most, same)
        self.rewind(same)
        self.key, self.cache.horizon = key, longest
        return same

    def grow(self, most: int, same: int) -> int:
        """A cache for `most` tokens, with the first `same` of the old one where it can take them over; how many it has.
        FathomError where there is no memory."""
        weight, old = self.model.embed.weight, self.cache
        self.rewind(same)
        if not same:
            self.cache = old = KVCache(self.model.config, 0, 0)  # free the old one first
        needed, free = cache_bytes(self.model.config, 1, most, weight.dtype.itemsize), free_memory(weight.device)
        if free is not None and needed > free:
            raise FathomError(
                f"the cache of {counted(most, 'token')} needs {needed / 2**20:,.0f} MiB and {free / 2**20:,.0f} MiB are"
                " free; generate fewer tokens"
            )
        self.cache = cache_for(self.model, 1, most)
        if not same or not take_over(self.cache, old):
            self.ids.clear()
        return len(self.ids)

    def rewind(self, length: int) -> None:
        """Discard all but the first `length` tokens."""
        if length != len(self.ids):
            self.cache.rewind(length)
            del self.ids[length:]

    def read(self, ids: Sequence[int]) -> Tensor:  # -> (1, t, d)
        """The next tokens of the text; what `unembed` reads after each."""
        try:
            hidden = self.model.hidden(torch.tensor([ids], device=self.cache.device), self.cache)
        except BaseException:
            self.forget()  # what a pass that broke off has written is not known
            raise
        self.ids += ids
        return hidden

    def forget(self) -> None:
        self.cache.rewind(0)
        self.ids.clear()


def take_over(new: KVCache, old: KVCache) -> bool:
    """Let an empty cache go on with what a shorter one has read; False, and nothing has changed, where its layers with
    a window keep their tokens otherwise."""
    if new.near_rows != old.near_rows or (new.near_rows and new.span != old.span):
        return False
    new.store[..., : old.length, :] = old.store[..., : old.length, :]
    if new.near_rows:
        new.near.copy_(old.near)
    new.advance(old.length)
    new.begin = old.begin
    return True


def stretched(model: Transformer, length: int) -> bool:
    """Whether a text of this length is rotated otherwise than a short one, from its first token on."""
    return not model.position.continues(1, length)


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((place for place, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
