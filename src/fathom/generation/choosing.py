"""The next tokens of many rows at once, each with its own samplers, generator and constraint.

Rows with the same samplers go through them together. A row whose logits are not finite, or whose constraint fails, has
an error in place of a token, and the others are as they were.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.generation.sampling import NOT_FINITE, OUT, Draw, draw
from fathom.generation.slots import Slot, Token

Outcome = Token | Exception


def choose(logits: Tensor, slots: Sequence[Slot], draw: Draw = draw) -> list[Outcome]:
    """A token for each slot from its logits (b, V), fp32, without the rows that pad a vocabulary. The host waits for
    the device once, at the end: a token and its log-probability come back together."""
    allowed, failed = constrained(logits, slots)
    groups = same_samplers(slots)
    if len(groups) == 1:
        ids = sampled(allowed, slots, draw)
    else:
        ids = torch.empty(len(slots), dtype=torch.int64, device=logits.device)
        for places in groups:
            index = torch.tensor(places, device=logits.device)
            ids[index] = sampled(allowed[index], [slots[place] for place in places], draw)
    ids = ids.clamp(max=logits.shape[-1] - 1)  # NaN draws no token
    logprobs = logits.log_softmax(-1)
    of_ids = logprobs.gather(1, ids[:, None]).squeeze(1)  # (b,)
    tokens, values = torch.stack((ids.to(of_ids.dtype), of_ids)).tolist()  # float32 holds ids below 2^24
    return [
        failed.get(place) or token_of(int(id), value, logprobs[place], slot.request.top)
        for place, (slot, id, value) in enumerate(zip(slots, tokens, values))
    ]


def token_of(id: int, logprob: float, logprobs: Tensor, top: int) -> Outcome:
    """The token with what is told of it; an error where the logits were not finite. logprobs: (V,)."""
    if not math.isfinite(logprob):
        return FathomError(NOT_FINITE.format("the model"))
    if not top:
        return Token(id, logprob)
    values, ids = logprobs.topk(min(top, len(logprobs)))
    return Token(id, logprob, tuple(zip(ids.tolist(), values.tolist())))


def same_samplers(slots: Sequence[Slot]) -> list[list[int]]:
    """The places of slots whose samplers are the same, together."""
    groups: dict[object, list[int]] = {}
    for place, slot in enumerate(slots):
        options = slot.request.options
        groups.setdefault((options.steps(), options.logit_bias), []).append(place)
    return [*groups.values()]


def sampled(logits: Tensor, slots: Sequence[Slot], draw: Draw) -> Tensor:  # (b, V) -> (b,)
    """A token for each of these slots, whose samplers are the same."""
    samplers = slots[0].samplers
    seen = torch.stack([slot.seen for slot in slots if slot.seen is not None]) if samplers.remembers else logits
    counts = torch.stack([slot.counts for slot in slots if slot.counts is not None]) if samplers.counted else None
    return draw(samplers(logits, seen, counts), [slot.generator for slot in slots])


def constrained(logits: Tensor, slots: Sequence[Slot]) -> tuple[Tensor, dict[int, Exception]]:
    """(the logits with those of tokens that are not allowed at -inf, the errors of slots by their place)."""
    failed: dict[int, Exception] = {}
    if all(slot.request.constraint is None for slot in slots):
        return logits, failed
    allowed = logits.clone()
    for place, slot in enumerate(slots):
        if (constraint := slot.request.constraint) is None:
            continue
        try:
            mask = constraint.mask()[: logits.shape[-1]].to(logits.device)
            allowed[place, : len(mask)].masked_fill_(~mask, OUT)
            allowed[place, len(mask) :] = OUT
        except Exception as error:  # of this text alone
            failed[place] = error
    return allowed, failed
