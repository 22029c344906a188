"""LoRA: y = W x + scale b a x. W stays as it is; a (rank, in) and b (out, rank) are all that learns.

Hu et al. 2021, section 4.1, with scale = alpha / rank. A layer is wrapped from outside and never knows; what several
adapters say of it adds up. Does not know models, files or training.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.fast.linear import PanelLinear
from fathom.quant.linear import QuantLinear

Weight = float | Tensor  # by how much an adapter counts; (b, 1, 1) where each row of a batch has its own


class Lora(nn.Module):
    """What one adapter adds to one layer."""

    rslora = False  # by which rule scale came from alpha: for files, which keep alpha

    def __init__(self, a: Tensor, b: Tensor, scale: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.a, self.b, self.scale = nn.Parameter(a), nn.Parameter(b), scale
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor, y: Tensor, base: nn.Module, weight: Weight) -> Tensor:
        """weight * scale * b a x, (..., in) -> (..., out). `y` is what the layer itself says of x."""
        a, b = self.matrices()
        return F.linear(F.linear(self.dropout(x), a.to(x.dtype)) * (self.scale * weight), b.to(x.dtype))

    def matrices(self) -> tuple[Tensor, Tensor]:
        """The a and b that the layer gets."""
        return self.a, self.b

    def delta(self, weight: Tensor) -> Tensor:
        """What is added to the layer's matrix `weight`, in fp32: scale b a (out, in)."""
        a, b = self.matrices()
        return self.scale * (b.float() @ a.float())


class LoraLinear(nn.Module):
    """A layer and its adapters; those in `active` count, each by its weight."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base, self.adapters = base, nn.ModuleDict()
        self.out_features, self.in_features = sizes(base)
        self.active: dict[str, Weight] = {}
        self.kept: nn.Module | None = None  # while merged: the layer as it was, to the bit
        self.waiting: dict[str, Weight] = {}  # and what was active

    def forward(self, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        y = out = self.base(x)
        for name, weight in self.active.items():
            out = out + self.adapters[name](x, y, self.base, weight)
        return out

    def delta(self, name: str) -> Tensor:
        """What the adapter adds to the matrix, (out, in) in fp32."""
        return self.adapters[name].delta((self.kept or self.base).weight.detach().float())  # type: ignore[operator]

    @property
    def weight(self) -> Tensor:
        """The matrix that the layer now multiplies by: its own, and what is active added to it."""
        own: Tensor = self.base.weight  # type: ignore[assignment]
        return own if not self.active else changed(own, [(self.delta(n), w) for n, w in self.active.items()])

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias  # type: ignore[return-value]

    def merge(self, names: list[str], dtype: torch.dtype) -> None:
        """Put W + delta in the place of W, for these adapters; where W is packed, in floats of this dtype."""
        weights = [(self.delta(name), self.active[name]) for name in names if name in self.active]
        if weights:
            self.kept, self.waiting = self.base, self.active
            self.base = dense(self.base, changed(self.base.weight, weights).to(dtype))  # type: ignore[arg-type]
            self.active = {name: weight for name, weight in self.active.items() if name not in names}

    def unmerge(self) -> None:
        if self.kept is not None:
            self.base, self.active, self.kept = self.kept, self.waiting, None


def sizes(base: nn.Module) -> tuple[int, int]:
    """(out, in); an embedding reads one of its vocabulary and writes a vector."""
    if isinstance(base, nn.Embedding):
        return base.embedding_dim, base.num_embeddings
    assert isinstance(base, nn.Linear | QuantLinear | PanelLinear)
    return base.out_features, base.in_features


def changed(weight: Tensor, deltas: list[tuple[Tensor, Weight]]) -> Tensor:
    """The matrix with the deltas added in fp32, in its own dtype."""
    return sum((delta * by for delta, by in deltas), weight.float()).to(weight.dtype)


def dense(base: nn.Module, weight: Tensor) -> nn.Module:
    """The layer with other weights, in floats also where it was packed."""
    out, width = sizes(base)
    with torch.device("meta"):
        new = nn.Embedding(width, out) if isinstance(base, nn.Embedding) else nn.Linear(width, out, bias=False)
    new.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if isinstance(new, nn.Linear):
        new.bias = base.bias  # type: ignore[assignment]
    return new.train(base.training)
