"""Which channels of q and k rope turns together: evidence from the weights, and from what the model predicts.

Meta's pairs are channels 2i and 2i + 1 of a head (interleaved), those of Hugging Face i and i + c/2 (half-split). In
the wrong layout a model runs and talks nonsense. Only C_aa + C_bb of a pair (a, b), with C = Wq Wk^T of a head, reaches
the scores (Su et al. 2021, eq. 16), so training gives both one sign; those of different pairs are independent.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.inspect.edit import edit
from fathom.inspect.rope_view import from_interleaved, pairs_moved
from fathom.model.config import ModelConfig, ResolvedConfig
from fathom.model.transformer import Transformer

LAYERS = 6  # whose weights are used
CLEAR = 4.0  # standard errors
Weights = Callable[[str], Tensor | None]  # by name, such as `blocks.0.attn.q.weight`; None where there is none


@dataclass(frozen=True)
class RopeLayout:
    """How many standard errors the partners of each layout agree by. Ours is half-split, whatever the file has."""

    half_split: float
    interleaved: float

    @property
    def verdict(self) -> str:
        """half-split, interleaved, undecided, as for weights that are hardly trained, or neither: partners of both are
        clearly unlike, as where a file was permuted twice."""
        lead = self.half_split - self.interleaved
        if max(self.half_split, self.interleaved) <= -CLEAR:
            return "neither"
        if abs(lead) < 2 * CLEAR or max(self.half_split, self.interleaved) < CLEAR:
            return "undecided"
        return "half-split" if lead > 0 else "interleaved"


def rope_layout(config: ModelConfig, weights: Weights, layers: int = LAYERS) -> RopeLayout | None:
    """The evidence in q and k of some layers, of the channels that are turned; None where none is, or but one pair."""
    z = config.resolved()
    if z.position != "rope" or (z.rope.rotated or z.head_dim) < 4 or not z.n_layer:
        return None
    spread = range(0, z.n_layer, max(1, z.n_layer // layers))[:layers]
    agreement = torch.cat([agreements(z, weights, layer) for layer in spread])  # (layers * h, 2)
    error = agreement.std(0).clamp(min=1e-12) / len(agreement) ** 0.5
    half_split, interleaved = (agreement.mean(0) / error).tolist()
    return RopeLayout(half_split, interleaved)


@torch.no_grad()
def agreements(config: ResolvedConfig, weights: Weights, layer: int) -> Tensor:
    """(h, 2): for each head the mean C_aa C_bb of its half-split and of its interleaved pairs, rows at length 1."""
    names = (f"blocks.{layer}.{part}.weight" for part in ("attn_norm", "attn.q", "attn.k"))
    scale, *both = (weights(name) for name in names)
    q, k = (directions(x if scale is None else x * scale, config.head_dim) for x in both if x is not None)
    k = k.repeat_interleave(config.n_head // config.n_kv_head, 0)  # (g, c, d) -> (h, c, d)
    same = (q * k).sum(-1)[:, : config.rope.rotated]  # (h, r): C_aa of the channels that are turned
    first, second = same.chunk(2, -1)
    half_split, interleaved = (first * second).mean(-1), (same[:, ::2] * same[:, 1::2]).mean(-1)
    return torch.stack((half_split, interleaved), -1)  # (h, 2)


def directions(weight: Tensor, head_dim: int) -> Tensor:
    """(h * c, d) -> (h, c, d), each row at length 1."""
    return torch.nn.functional.normalize(weight.float(), dim=-1).unflatten(0, (-1, head_dim))


@dataclass(frozen=True)
class Layout:
    """Evidence that the rows of q and k are half-split, as this model's rope expects."""

    weights: RopeLayout | None
    loss: float | None = None  # nats per token of text, as loaded
    other_loss: float | None = None  # with the rows of q and k as if they were interleaved
    lead: float = 0.0  # standard errors by which the loss as loaded is lower, token by token

    @property
    def neither(self) -> bool:
        """Whether q and k are in some third order."""
        return abs(self.lead) < CLEAR and self.weights is not None and self.weights.verdict == "neither"

    @property
    def verdict(self) -> str:
        """right, wrong or undecided. Text decides where it is clear; else the weights do."""
        if abs(self.lead) >= CLEAR:
            return "right" if self.lead > 0 else "wrong"
        by_weights = self.weights.verdict if self.weights else "undecided"
        return {"half-split": "right", "interleaved": "wrong", "neither": "wrong"}.get(by_weights, by_weights)


def layout(model: Transformer, texts: Sequence[Tensor], weights: Weights | None = None) -> Layout | None:
    """The evidence; `texts` are ids (t,) of natural text. None where rope turns nothing. weights: those of the model,
    where an edit of q and k stands for others."""
    if model.config.position != "rope" or not model.config.n_layer:
        return None
    told = rope_layout(model.config, weights or weights_of(model))
    if not texts:
        return Layout(told)
    as_loaded = losses(model, texts)
    with interleaved(model):
        other = losses(model, texts)
    gain = other - as_loaded
    lead = float(gain.mean() / (gain.std() / len(gain) ** 0.5).clamp(min=1e-9))
    return Layout(told, float(as_loaded.mean()), float(other.mean()), lead)


def weights_of(model: Transformer, move: Callable[[Tensor], Tensor] | None = None) -> Weights:
    """The weights of a model by name, packed ones unpacked and adapted ones with their change. move: what is done to
    the channels of q and k, as by `pairs_moved`."""

    def weight(name: str) -> Tensor | None:
        part, _, own = name.rpartition(".")
        found: Tensor | None = getattr(model.get_submodule(part), own, None)
        if found is None or move is None or not part.endswith((".q", ".k")):
            return found
        heads = found.unflatten(0, (-1, model.config.resolved().head_dim))
        turned, rest = heads[:, : (r := model.config.rope.rotated)], heads[:, r or heads.shape[1] :]
        return torch.cat((move(turned.mT).mT, rest), 1).flatten(0, 1)

    return weight


@torch.no_grad()
def losses(model: Transformer, texts: Sequence[Tensor]) -> Tensor:
    """(n,) the loss of every token of the texts but their first."""
    losses = []
    for ids in texts:
        ids = ids.to(model.embed.weight.device)
        logits = model(ids[None])[0, :-1].float()
        losses.append(torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none"))
    return torch.cat(losses).cpu()


def interleaved(model: Transformer) -> AbstractContextManager[None]:
    """A context in which the channels of every q and k are read as if they were interleaved."""
    return edit(model, *pairs_moved(from_interleaved, model.config.rope.rotated))
