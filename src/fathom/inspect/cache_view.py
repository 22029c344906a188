"""Generation step by step, with a cache of keys and values and without one, so that they can be compared.

The model runs block by block, as it is read. Three caches are wrong on purpose: what each of them breaks is what a real
mistake of its kind breaks.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fathom.anatomy.cost import cache_bytes
from fathom.model.cache import KVCache, NoCache
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer

Fault = Literal["offset", "mask", "unrotated"]
Choose = Callable[[Tensor], int]  # logits (V,) of the next token -> its id


class Offset(KVCache):
    """Wrong on purpose: every token after the prompt stands one position too far to the right, but for the last of the
    model's context."""

    last: int

    def positions(self, t: int) -> Tensor:
        return (super().positions(t) + (1 if self.length else 0)).clamp(max=self.last)


class NoMask(KVCache):
    """Wrong on purpose: the tokens of the prompt see those after them."""

    def visible(self, t: int, window: int | None = None) -> Tensor | None:
        if t == 1:
            return super().visible(t, window)
        return torch.ones(t, self.keys(t, window), dtype=torch.bool, device=self.device)


class Unrotated(KVCache):
    """Wrong on purpose: keys are stored as they were before rotation, and nobody rotates them when they are read."""

    model: Transformer

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        position, kind = self.model.position, self.model.blocks[layer].kind
        end = max(self.length + k.shape[2], self.horizon)
        back = position.rotation(-self.positions(k.shape[2]), kind, end)
        twice = position.rotation(torch.zeros(1, dtype=torch.long, device=k.device), kind, end)(torch.ones_like(k)) ** 2
        return super().append(layer, back(k) / twice, v)  # `twice`: the temperature, by which both rotations multiply


CACHES: dict[Fault | None, type[KVCache]] = {None: KVCache, "offset": Offset, "mask": NoMask, "unrotated": Unrotated}


@dataclass(frozen=True)
class Step:
    """One pass and the token chosen after it."""

    id: int
    logprob: float  # ln of the model's own probability of that token
    logits: Tensor  # (n, V) of the tokens that this pass read
    seconds: float
    made: int  # tokens whose keys and values were computed in this pass
    reused: int  # tokens whose keys and values were taken from the cache
    n_bytes: int  # of the keys and values of all tokens read so far; 0 without a cache


def steps(
    model: Transformer, ids: Tensor, most: int, choose: Choose, cached: bool = True, fault: Fault | None = None
) -> Iterator[Step]:
    """Up to `most` tokens after ids (1, t), one a pass: over a cache each pass reads only the newest token, without one
    all of them again. Ends before the model's context is full; a consumer that stops, stops it within a token."""
    most = min(most, room_after(model, ids.shape[1]))
    cache = cache_for(model, ids.shape[1] + most, fault) if cached else None
    fresh = ids
    for _ in range(most):
        began, past = time.perf_counter(), cache or NoCache(ids.device)
        reused = past.length
        with torch.no_grad():
            logits = model.unembed(Transformer.hidden(model, fresh, past))[0].float()  # (n, V)
        chosen = choose(logits[-1])
        seconds = time.perf_counter() - began  # the choice has waited for the device
        n_bytes = 0 if cache is None else held_bytes(cache)
        logprob = logits[-1].log_softmax(-1)[chosen].item()
        yield Step(chosen, logprob, logits, seconds, fresh.shape[1], reused, n_bytes)
        new = torch.tensor([[chosen]], device=ids.device)
        fresh = new if cached else torch.cat((fresh, new), 1)


def side_by_side(cached: Iterable[Step], plain: Iterable[Step]) -> Iterator[tuple[Step, Step, float]]:
    """Two generations, step by step, and how far their logits are apart, at every token that the cached pass read: for
    as long as both have read the same tokens, and NaN from then on."""
    same = True
    for one, other in zip(cached, plain):
        off = (one.logits - other.logits[-len(one.logits) :]).abs().max().item() if same else math.nan
        yield one, other, off
        same = same and one.id == other.id


def cached_equals_uncached(both: Sequence[tuple[Step, Step, float]]) -> dict[str, float]:
    """C9 on two generations: their logits, for as long as they have read the same, and their tokens."""
    differ = [n for n, (one, other, _) in enumerate(both) if one.id != other.id]
    compared = [off for _, _, off in both[: differ[0] + 1 if differ else len(both)]]
    return {
        "cached logits = uncached": max(compared, key=lambda x: math.inf if x != x else x, default=0.0),
        "cached tokens = uncached": float(len(differ)),
    }


def cache_for(model: Transformer, length: int, fault: Fault | None = None) -> KVCache:
    """A cache of one row for `length` tokens, right or wrong on purpose."""
    weight = model.embed.weight
    cache = CACHES[fault](model.config, 1, length, dtype=weight.dtype, device=weight.device)
    if isinstance(cache, Unrotated):
        cache.model = model
    if isinstance(cache, Offset):
        cache.last = model.config.context_length - 1
    return cache


def bytes_off(cache: KVCache, config: ModelConfig) -> float:
    """By how much the bytes of a cache differ from 2 L g c T b itemsize, with a window less."""
    return abs(float(cache.nbytes - cache_bytes(config, 1, cache.capacity, cache.store.dtype.itemsize)))


def held_bytes(cache: KVCache) -> int:
    """Bytes of the keys and values of the tokens read so far, in the tensors that hold them."""
    return cache.store[..., : cache.length, :].nbytes + cache.near[..., : cache.length - cache.begin, :].nbytes


def room_after(model: Transformer, t: int) -> int:
    """How many tokens can follow t others within the model's context, and be read over the same cache."""
    room = max(0, model.config.context_length - t)
    while room and not model.position.continues(t, t + room):  # longrope rotates longer texts otherwise
        room -= 1
    return room


def no_effect(model: Transformer, fault: Fault | None, t: int) -> str:
    """Why this fault changes nothing in this model, of a prompt of t tokens; "" where it does."""
    position = model.config.position
    rotates = position == "rope" and any(block.kind != "n" for block in model.blocks)
    if fault and not model.blocks and (fault != "offset" or position != "learned"):
        return "there is no attention here, so nothing is cached"
    if fault == "offset" and position == "alibi":
        return "alibi counts how far back a key lies, not where a token stands: an offset of all tokens is invisible"
    if fault == "offset" and not rotates and position != "learned":
        return "no position enters this model, so a wrong one changes nothing"
    if fault == "unrotated" and not rotates:
        return "keys are not rotated in this model, so it does not matter whether they are stored before or after"
    return "the prompt is one token, with nothing after it to see" if fault == "mask" and t < 2 else ""
