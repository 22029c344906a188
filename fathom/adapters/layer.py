"""LoRA: y = W x + scale b a x. W stays as it is; a (rank, in) and b (out, rank) are all that learns.

Hu et al. 2021, section 4.1, with scale = alpha / rank. A layer is wrapped from outside and never knows; what several
adapters say of it adds up. Does not know models, files or training.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.adapters.options import LoraOptions
from fathom.backend.linear import PanelLinear
from fathom.errors import FathomError
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


# Three variations of LoRA that differ in what one layer gets: DoRA, PiSSA, and LoRA of an embedding.
#
# DoRA: Liu et al. 2024, eq. 5. PiSSA: Meng et al. 2024, section 3. Each adds a change to W, as LoRA does, and none
# touches W itself, so that they can be switched, scaled, blended and merged alike.


class EmbeddingLora(Lora):
    """Of a table: column `id` of a, and of W^T, is what is looked up."""

    def forward(self, x: Tensor, y: Tensor, base: nn.Module, weight: Weight) -> Tensor:
        """(b, t) ids -> (b, t, d)"""
        low = F.embedding(x, self.a.T.to(y.dtype))  # (b, t, r)
        return F.linear(self.dropout(low) * (self.scale * weight), self.b.to(y.dtype))

    def delta(self, weight: Tensor) -> Tensor:
        return super().delta(weight).T  # (V, d)


class Dora(Lora):
    """W' = m (W + scale b a) / ||W + scale b a||, row by row: length m (out,) and direction learn apart.

    The length of W + scale b a needs no matrix of W's size: |w|^2 + 2 s b (a W^T) + s^2 b (a a^T) b^T of each row, and
    a W^T is what the layer says of the rows of a. No gradient flows through it (section 4.3).
    """

    squares: Tensor

    def __init__(self, a: Tensor, b: Tensor, scale: float, dropout: float, weight: Tensor) -> None:
        super().__init__(a, b, scale, dropout)
        self.register_buffer("squares", weight.detach().float().square().sum(1), persistent=False)  # (out,)
        self.magnitude = nn.Parameter(self.squares.sqrt())  # (out,)

    def forward(self, x: Tensor, y: Tensor, base: nn.Module, weight: Weight) -> Tensor:
        bias = base.bias
        ratio = (self.magnitude / self.lengths(base)).to(y.dtype)  # (out,)
        own = y if bias is None else y - bias.to(y.dtype)  # type: ignore[operator]
        return (ratio - 1) * own * weight + ratio * super().forward(x, y, base, weight)

    @torch.no_grad()
    def lengths(self, base: nn.Module) -> Tensor:
        """Of the rows of W + scale b a, (out,)."""
        a, b = self.a.float(), self.b.float() * self.scale
        bias: Tensor | None = base.bias  # type: ignore[assignment]
        dtype = a.dtype if not isinstance(base, nn.Linear) else base.weight.dtype
        mixed = base(a.to(dtype)).float() - (0 if bias is None else bias.float())  # (r, out)
        return (self.squares + 2 * (b * mixed.T).sum(1) + ((b @ (a @ a.T)) * b).sum(1)).clamp(min=0).sqrt()

    def delta(self, weight: Tensor) -> Tensor:
        turned = weight + super().delta(weight)
        return turned * (self.magnitude / turned.norm(dim=1))[:, None] - weight


class Pissa(Lora):
    """Begins as the `rank` largest directions of W, and only what becomes of them counts: scale (b a - b0 a0).

    The paper puts the residual W - scale b0 a0 in the place of W; here W stays, and the sum is the same.
    """

    first_a: Tensor
    first_b: Tensor

    def __init__(self, a: Tensor, b: Tensor, scale: float, dropout: float, first: tuple[Tensor, Tensor]) -> None:
        super().__init__(a, b, scale, dropout)
        self.register_buffer("first_a", first[0].clone())
        self.register_buffer("first_b", first[1].clone())

    def matrices(self) -> tuple[Tensor, Tensor]:
        """(2 r, in) and (out, 2 r): as one LoRA of twice the rank, which is how peft saves it too."""
        return torch.cat((self.a, self.first_a)), torch.cat((self.b, -self.first_b), 1)


def largest(weight: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """a (rank, in) and b (out, rank) with scale b a the best approximation of W of that rank: U S V^T, S shared out."""
    u, s, vt = torch.linalg.svd(weight.detach().float(), full_matrices=False)
    root = (s[:rank] / scale).sqrt()
    return root[:, None] * vt[:rank], u[:, :rank] * root


def of(plain: Lora, base: nn.Module, options: LoraOptions) -> Lora:
    """The adapter that the options ask for, in the place of a plain one."""
    weight: Tensor = base.weight  # type: ignore[assignment]
    if isinstance(base, nn.Embedding):
        if options.dora or options.init == "pissa":
            raise FathomError("dora and pissa are for linear layers, and embed is a table; leave it out of the targets")
        return EmbeddingLora(plain.a.data, plain.b.data, plain.scale, options.dropout)
    if options.dora:
        return Dora(plain.a.data, plain.b.data, plain.scale, options.dropout, weight)
    if options.init == "pissa":
        if isinstance(base, QuantLinear):
            raise FathomError(
                "init is pissa, which takes the largest directions out of weights before they are packed, and these are"
                f" packed in {base.scheme.name}; leave init out, or give weights in floats (method lora)"
            )
        first = largest(weight, len(plain.a), plain.scale)
        return Pissa(*first, plain.scale, options.dropout, first)
    return plain
