"""Rows of the embedding and the unembedding that are trained, for tokens that were added: all other rows stay frozen.

A tied model has one set of rows for both matrices. Saved, the rows are part of whole matrices, as peft saves those of a
vocabulary that has grown.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.adapters.layer import KINDS, Layer, LoraLinear, Weight
from fathom.adapters.lora import active_adapters, wrapped
from fathom.anatomy.swap import swap
from fathom.errors import FathomError
from fathom.model.transformer import Transformer


class TokenRows(nn.Module):
    """Trained rows (n, d) in place of those of a matrix (V, d)."""

    rslora = False
    dropout: nn.Module

    ids: Tensor

    def __init__(self, ids: Sequence[int], rows: nn.Parameter, embedding: bool) -> None:
        super().__init__()
        self.rows, self.embedding, self.dropout = rows, embedding, nn.Identity()
        self.register_buffer("ids", torch.tensor(list(ids), device=rows.device), persistent=False)

    def forward(self, x: Tensor, y: Tensor, base: Layer, weight: Weight) -> Tensor:
        """What the rows change: (b, t) ids -> (b, t, d), or (b, t, d) -> (b, t, V)."""
        rows = self.rows.to(y.dtype)
        if self.embedding:
            here = (x[..., None] == self.ids).to(y.dtype)  # (b, t, n)
            return (here @ rows - here.sum(-1, keepdim=True) * y) * weight
        bias: Tensor | None = base.bias  # type: ignore[assignment]
        own = None if bias is None else bias[self.ids].to(y.dtype)
        change = F.linear(x, rows, own) - y.index_select(-1, self.ids)  # (b, t, n)
        return torch.zeros_like(y).index_copy(-1, self.ids, change * weight)

    def delta(self, weight: Tensor) -> Tensor:
        """What is added to the matrix (V, d)."""
        return torch.zeros_like(weight).index_copy(0, self.ids, self.rows - weight[self.ids])


def add_rows(model: Transformer, ids: Sequence[int], name: str = "default") -> None:
    """Train the rows of these tokens with the adapter `name`. FathomError where embed or unembed has one already."""
    active = active_adapters(model)
    if taken := wrapped(model, name).keys() & {"embed", "unembed"}:
        raise FathomError(f"tokens are added, and {min(taken)} is a target; leave it out: rows of added tokens are"
                          " trained as they are")  # fmt: skip
    tied = model.unembed.weight is model.embed.weight
    index = torch.tensor(list(ids), device=model.embed.weight.device)
    rows = [nn.Parameter(layer.weight.detach()[index].float()) for layer in (model.embed, model.unembed)]
    new = dict.fromkeys(KINDS, lambda base: LoraLinear(base, active))
    swap(model, new, names=["embed", "unembed"])
    parts = wrapped(model)
    for layer, own in (("embed", rows[0]), ("unembed", rows[0] if tied else rows[1])):
        parts[layer].adapters[name] = TokenRows(ids, own, layer == "embed").train(model.training)
