"""Is rope turning the right channels together? Asked of the weights, and of what the model makes of plain text.

A model whose q and k rows are in the order of the other layout predicts text far worse than the same model with the
rows put right, and the other way round. Untrained weights have no opinion.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.formats.rope_layout import CLEAR, RopeLayout, rope_layout
from fathom.model.transformer import Transformer


@dataclass(frozen=True)
class Layout:
    """Evidence that q and k lie half-split, as this model's rope wants them."""

    weights: RopeLayout | None
    loss: float | None = None  # nats per token of text, as loaded
    other_loss: float | None = None  # with the rows of q and k as if they were interleaved
    lead: float = 0.0  # how many standard errors the loss as loaded is lower by, token by token

    @property
    def verdict(self) -> str:
        """right, wrong or undecided. Text decides where it is clear; else the weights do."""
        if abs(self.lead) >= CLEAR:
            return "right" if self.lead > 0 else "wrong"
        said = self.weights.verdict if self.weights else "undecided"
        return {"half-split": "right", "interleaved": "wrong"}.get(said, said)


def layout(model: Transformer, texts: Sequence[Tensor]) -> Layout | None:
    """The evidence; `texts` are ids (t,) of natural text. None where rope turns nothing."""
    if model.config.position != "rope" or not model.config.n_layer:
        return None
    weights = rope_layout(model)
    if not texts:
        return Layout(weights)
    as_loaded = losses(model, texts)
    with interleaved(model):
        other = losses(model, texts)
    gain = other - as_loaded
    lead = float(gain.mean() / (gain.std() / len(gain) ** 0.5).clamp(min=1e-9))
    return Layout(weights, float(as_loaded.mean()), float(other.mean()), lead)


@torch.no_grad()
def losses(model: Transformer, texts: Sequence[Tensor]) -> Tensor:
    """The loss of every token of the texts but their first."""
    found = []
    for ids in texts:
        ids = ids.to(model.embed.weight.device)
        logits = model(ids[None])[0, :-1].float()
        found.append(torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none"))
    return torch.cat(found).cpu()


@contextmanager
def interleaved(model: Transformer) -> Iterator[None]:
    """The rows of every q and k read as if they had been interleaved; as they were afterwards."""
    linears = [linear for block in model.blocks for linear in (block.attn.q, block.attn.k)]
    kept = [(linear.weight.data, linear.bias) for linear in linears]
    try:
        for linear in linears:
            linear.weight.data = reordered(linear.weight.data, model.config.head_dim)
            if linear.bias is not None:
                linear.bias = torch.nn.Parameter(reordered(linear.bias.data, model.config.head_dim), False)
        yield
    finally:
        for linear, (weight, bias) in zip(linears, kept):
            linear.weight.data, linear.bias = weight, bias


def reordered(rows: Tensor, head_dim: int) -> Tensor:
    """Channels 2i and 2i + 1 of each head to i and i + c/2."""
    return rows.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)
