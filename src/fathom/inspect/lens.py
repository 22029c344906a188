"""Logit lens (nostalgebraist 2020): what the model would say if the stream were read here.

The stream before all blocks and after each is read as the model reads its last one: through its own final norm, row by
row, and its unembedding. Pure functions: `seen` is any mapping from names to tensors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fathom.inspect.derived import Tensors, streams
from fathom.model.norm import LayerNorm, Norm
from fathom.model.transformer import Transformer

Fault = Literal["none", "no norm", "normed twice"]
AT_ONCE = 1 << 24  # logits that are held at a time
OFFERED = 8  # tokens that are followed at each position


def lens(model: Transformer, stream: Tensor, fault: Fault = "none") -> Tensor:
    """The logits (..., V) of the stream (..., d) read here: unembed(final_norm(stream)).

    fault: wrong on purpose; the stream is read as it is, or normed twice.
    """
    if fault == "no norm":
        return model.unembed(stream)
    normed = model.final_norm(stream)
    return model.unembed(model.final_norm(normed) if fault == "normed twice" else normed)


def faults(model: Transformer) -> list[Fault]:
    """The wrong lenses that differ from the right one in this model: without a norm none, and norming twice changes
    something only where the norm multiplies by a weight or adds a bias."""
    norm = model.final_norm
    if not isinstance(norm, Norm):
        return []
    weighs = norm.gain is not None or (isinstance(norm, LayerNorm) and norm.bias is not None)
    return ["no norm", "normed twice"] if weighs else ["no norm"]


@dataclass(frozen=True)
class Readings:
    """What the lens reads at every row of the stream, before all blocks and after each, and at every position."""

    top: Tensor  # (L + 1, t) the likeliest token
    p_top: Tensor  # (L + 1, t) and its probability
    p_final: Tensor  # (L + 1, t) of the token that is likeliest in the end
    entropy: Tensor  # (L + 1, t) nats
    kl: Tensor  # (L + 1, t) nats, of the model's own distribution from this one
    watched: Tensor  # (t, k) tokens, those given and those that come nearest to the top at some row
    ranks: Tensor  # (t, k, L + 1) their ranks, 1 the likeliest
    off: float  # largest difference between the last row's probabilities and the model's


@torch.no_grad()
def read(
    model: Transformer, seen: Tensors, watch: Sequence[int] = (), fault: Fault = "none", first: int = 0
) -> Readings:
    """The lens on every row of the first text of `seen`, which has embed, embed_norm or position where the model has
    them, blocks.* and logits. watch: tokens whose ranks are wanted as well. first: the position to begin at."""
    rows = torch.stack([x[0, first:] for x in streams(model, seen)])  # (L + 1, t, d)
    final = seen["logits"][0, first:]  # (t, V)
    step = max(1, AT_ONCE // (len(rows) * final.shape[-1]))
    spans = [slice(at, at + step) for at in range(0, len(final), step)]
    parts = [_read(model, rows[:, span], final[span], watch, fault) for span in spans]

    def joined(name: str, dim: int) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts], dim)

    return Readings(
        top=joined("top", 1),
        p_top=joined("p_top", 1),
        p_final=joined("p_final", 1),
        entropy=joined("entropy", 1),
        kl=joined("kl", 1),
        watched=joined("watched", 0),
        ranks=joined("ranks", 0),
        off=max((part.off for part in parts), key=lambda off: (off != off, off)),
    )


def _read(model: Transformer, rows: Tensor, final: Tensor, watch: Sequence[int], fault: Fault) -> Readings:
    """The readings at some positions: rows (L + 1, t, d), final (t, V)."""
    logits = lens(model, rows, fault).float()  # (L + 1, t, V)
    said, here = final.float().log_softmax(-1), logits.log_softmax(-1)
    off = (here[-1].exp() - said.exp()).abs().max().item()
    best = final.argmax(-1).expand(len(rows), -1)[..., None]  # (L + 1, t, 1)
    p_top, top = here.max(-1)
    watched = offered(logits, watch)  # (t, k)
    ranks = torch.stack([rank(logits, token) for token in watched.unbind(1)], 1)  # (L + 1, k, t)
    return Readings(
        top=top,
        p_top=p_top.exp(),
        p_final=here.gather(-1, best)[..., 0].exp(),
        entropy=-(here.exp() * here).sum(-1),
        kl=(said.exp() * (said - here)).sum(-1),
        watched=watched,
        ranks=ranks.permute(2, 1, 0),
        off=off,
    )


def rank(logits: Tensor, token: Tensor) -> Tensor:
    """The rank (..., t) of one token (t,) for each position, 1 the likeliest, among logits (..., t, V)."""
    own = logits.gather(-1, token.expand(logits.shape[:-1])[..., None])
    return 1 + (logits > own).view(torch.uint8).sum(-1, dtype=torch.int32)  # twice as fast as a sum of bools


def offered(logits: Tensor, watch: Sequence[int] = ()) -> Tensor:
    """Tokens (t, k) worth following at each position, given logits (rows, t, V): those of `watch`, then those with the
    best rank at any row; of equal ones, what is said later comes first."""
    k = min(OFFERED, logits.shape[-1])
    likely = logits.topk(k, -1).indices.flip(0).permute(1, 2, 0)  # (t, k, rows): by rank, then last row first
    first = dict.fromkeys(watch)
    lists = [list(first | dict.fromkeys(ids))[: max(k, len(first))] for ids in likely.flatten(1).tolist()]
    return torch.tensor(lists, device=logits.device)
