"""LoRA: y = W x + scale b a x. W stays frozen; only a (rank, in) and b (out, rank) are trained.

Hu et al. 2021, section 4.1, with scale = alpha / rank. A layer is wrapped from outside, and the deltas of its active
adapters add up. DoRA (Liu et al. 2024, eq. 5) and PiSSA (Meng et al. 2024, section 3) add a delta to W as LoRA does and
leave W itself alone, so that all can be enabled, weighted and merged alike.
"""

import copy
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.adapters.options import LoraOptions
from fathom.adapters.svd import SVD, svd
from fathom.adapters.whole import Replaced
from fathom.anatomy.swap import kind_of
from fathom.backend.adapted import ADAPTED
from fathom.backend.linear import PanelLinear
from fathom.errors import FathomError
from fathom.families.plain import computes_as
from fathom.model.ends import ScaledEmbedding, ScaledUnembed, scaled
from fathom.quant.linear import QuantLinear
from fathom.words import counted

Layer = nn.Linear | nn.Embedding | QuantLinear | PanelLinear  # what an adapter can be put on
KINDS = (nn.Linear, nn.Embedding, QuantLinear, PanelLinear, ScaledEmbedding, ScaledUnembed)  # the classes of those
Weight = float | Tensor  # factor of a delta; (b, 1, 1) where each row of a batch has its own


class Lora(nn.Module):
    """The adapter of one layer."""

    rslora = False  # how scale was derived from alpha: for files, which store alpha

    def __init__(self, a: Tensor, b: Tensor, scale: float, dropout: float = 0.0, bias: Tensor | None = None) -> None:
        super().__init__()
        self.a, self.b, self.scale = nn.Parameter(a), nn.Parameter(b), scale
        self.bias = None if bias is None else nn.Parameter(bias)  # (out,), of b, as peft's lora_bias
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor, y: Tensor, base: Layer, weight: Weight) -> Tensor:
        """weight * scale * (b a x + bias), (..., in) -> (..., out). `y` is the layer's own W x + bias."""
        a, b = self.matrices()
        out = F.linear(F.linear(self.dropout(x), a.to(x.dtype)) * (self.scale * weight), b.to(x.dtype))
        return out if self.bias is None else out + self.bias.to(x.dtype) * (self.scale * weight)

    def matrices(self) -> tuple[Tensor, Tensor]:
        """The effective a and b."""
        return self.a, self.b

    def delta(self, weight: Tensor) -> Tensor:
        """What is added to the layer's matrix `weight`, in fp32: scale b a (out, in)."""
        a, b = self.matrices()
        return self.scale * (b.float() @ a.float())


class EmbeddingLora(Lora):
    """LoRA of a table: looks up column `id` of a, as the table's own rows are looked up."""

    def forward(self, x: Tensor, y: Tensor, base: Layer, weight: Weight) -> Tensor:
        """(b, t) ids -> (b, t, d)"""
        low = F.embedding(x, self.a.T.to(y.dtype))  # (b, t, r)
        return F.linear(self.dropout(low) * (self.scale * weight), self.b.to(y.dtype))

    def delta(self, weight: Tensor) -> Tensor:
        return super().delta(weight).T  # (V, d)


class Dora(Lora):
    """W' = m (W + scale b a) / ||W + scale b a|| row by row: magnitude m (out,) and direction are trained apart.

    The row norms need no matrix of W's size: |w|^2 + 2 s b (a W^T) + s^2 b (a a^T) b^T, and a W^T is the layer's output
    for the rows of a. No gradient flows through them (section 4.3).
    """

    squares: Tensor

    def __init__(self, a: Tensor, b: Tensor, scale: float, dropout: float, weight: Tensor) -> None:
        super().__init__(a, b, scale, dropout)
        self.register_buffer("squares", weight.detach().float().square().sum(1), persistent=False)  # (out,)
        self.magnitude = nn.Parameter(self.squares.sqrt())  # (out,)

    def forward(self, x: Tensor, y: Tensor, base: Layer, weight: Weight) -> Tensor:
        bias: Tensor | None = base.bias  # type: ignore[assignment]
        ratio = (self.magnitude / self.row_norms(base)).to(y.dtype)  # (out,)
        own = y if bias is None else y - bias.to(y.dtype)
        return (ratio - 1) * own * weight + ratio * super().forward(x, y, base, weight)

    @torch.no_grad()
    def row_norms(self, base: Layer) -> Tensor:
        """||W + scale b a|| of each row, (out,)."""
        a, b = self.a.float(), self.b.float() * self.scale
        dtype = base.weight.dtype if isinstance(base, nn.Linear) else a.dtype
        bias: Tensor | None = base.bias  # type: ignore[assignment]
        mixed = product(base, a.to(dtype)).float() - (0 if bias is None else bias.float())  # (r, out)
        return (self.squares + 2 * (b * mixed.T).sum(1) + ((b @ (a @ a.T)) * b).sum(1)).clamp(min=0).sqrt()

    def delta(self, weight: Tensor) -> Tensor:
        direction = weight + super().delta(weight)
        return direction * (self.magnitude / direction.norm(dim=1))[:, None] - weight


class Pissa(Lora):
    """Starts as the first `rank` principal components of W; the delta is what training changed: scale (b a - b0 a0).

    The paper replaces W by the residual W - scale b0 a0; here W stays, and the sum is the same.
    """

    first_a: Tensor
    first_b: Tensor

    def __init__(self, a: Tensor, b: Tensor, scale: float, dropout: float, first: tuple[Tensor, Tensor]) -> None:
        super().__init__(a, b, scale, dropout)
        self.register_buffer("first_a", first[0].clone())
        self.register_buffer("first_b", first[1].clone())

    def matrices(self) -> tuple[Tensor, Tensor]:
        """(2 r, in) and (out, 2 r): one LoRA of twice the rank, which is also how peft saves it."""
        return torch.cat((self.a, self.first_a)), torch.cat((self.b, -self.first_b), 1)


class ActiveAdapters:
    """Which adapters of a model are active, each with its weight. All LoraLinear of a model share one.

    While some are merged into the layers, nothing else can change: FathomError.
    """

    def __init__(self) -> None:
        self.weights: dict[str, Weight] = {}  # in the order in which deltas are added
        self.replaced: dict[str, Replaced] = {}  # tensors of the model that an adapter holds whole
        self.modules_to_save: dict[str, tuple[str, ...]] = {}  # of each adapter, as peft calls them
        self._before_merge: dict[str, Weight] | None = None

    def set(self, weights: Mapping[str, Weight]) -> None:
        """Activate these adapters and no others."""
        self.require_unmerged()
        for tensor in self.replaced.values():
            tensor.apply(weights)
        self.weights = dict(weights)

    def enable(self, name: str, weight: Weight = 1.0) -> None:
        self.set(self.weights | {name: weight})

    def disable(self, name: str) -> None:
        self.set({other: weight for other, weight in self.weights.items() if other != name})

    def merge(self, names: Iterable[str]) -> None:
        """The layers hold these adapters from now on: they are no longer added."""
        self.require_unmerged()
        before, names = self.weights, set(names)
        self.weights = {name: weight for name, weight in before.items() if name not in names}
        self._before_merge = before

    def unmerge(self) -> None:
        if self._before_merge is not None:
            self.weights, self._before_merge = self._before_merge, None

    def require_unmerged(self) -> None:
        """FathomError where adapters are merged."""
        if self._before_merge is not None:
            raise FathomError("adapters are merged into the weights; unmerge first")


@computes_as(nn.Linear, nn.Embedding, ScaledEmbedding, ScaledUnembed)
class LoraLinear(nn.Module):
    """A layer, its adapters, and while they are merged a second layer that holds them."""

    def __init__(self, base: Layer, active: ActiveAdapters) -> None:
        super().__init__()
        self.base, self.adapters, self.active = base, nn.ModuleDict(), active
        self.merged: nn.Linear | nn.Embedding | None = None
        self.out_features, self.in_features = features(base)

    @property
    def layer(self) -> Layer:
        """The layer to which active adapters are added."""
        return self.base if self.merged is None else self.merged

    def low_rank(self) -> dict[str, tuple[Tensor, Tensor, float]]:
        """a, b and scale of each adapter. FathomError where one is more than these."""
        if self.merged is not None:
            raise FathomError("holds adapters that are merged")
        for name, part in self.adapters.items():
            drops = part.training and not isinstance(part.dropout, nn.Identity)
            plain = kind_of(part) is Lora and getattr(part, "bias", None) is None and not drops
            if not plain:
                raise FathomError(f"has the adapter {name!r}, which is more than a LoRA without bias or dropout")
        return {name: (part.a, part.b, part.scale) for name, part in self.adapters.items()}  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        y = out = product(self.layer, x)
        for name, weight in self.active.weights.items():
            if name in self.adapters:
                if isinstance(weight, Tensor):
                    require_rows(x, len(weight))
                out = out + self.adapters[name](x, y, self.layer, weight)
        return finished(self.layer, out)

    def delta(self, name: str) -> Tensor:
        """What the adapter adds to the matrix, (out, in) in fp32."""
        return self.adapters[name].delta(self.base.weight.detach().float())  # type: ignore[operator]

    def deltas(self, names: Iterable[str]) -> list[tuple[Tensor, Weight]]:
        """Those of the adapters that this layer has, each with its weight."""
        return [(self.delta(name), self.active.weights[name]) for name in names if name in self.adapters]

    @property
    def weight(self) -> Tensor:
        """The effective matrix: the layer's own plus the active deltas."""
        deltas = self.deltas(self.active.weights)
        return add_deltas(self.layer.weight, deltas) if deltas else self.layer.weight

    @property
    def bias(self) -> Tensor | None:
        """The effective bias: the layer's own, and those of the active adapters."""
        return self.bias_with(self.active.weights, self.layer)

    def bias_with(self, names: Iterable[str], layer: Layer) -> Tensor | None:
        own: Tensor | None = layer.bias  # type: ignore[assignment]
        for name in names:
            adapter = dict(self.adapters).get(name)
            if isinstance(adapter, Lora) and adapter.bias is not None:
                change = adapter.bias.detach() * (adapter.scale * self.active.weights[name])
                own = change if own is None else (own.float() + change).to(own.dtype)
        return own

    def merge(self, names: Iterable[str], dtype: torch.dtype) -> None:
        """Compute with W + delta of these active adapters; where W is packed, in floats of this dtype."""
        names = list(names)
        if deltas := self.deltas(names):
            merged = float_layer(self.base, add_deltas(self.base.weight, deltas).to(dtype))
            if isinstance(merged, nn.Linear) and (bias := self.bias_with(names, self.base)) is not self.base.bias:
                merged.bias = nn.Parameter(bias.to(dtype), requires_grad=False)  # type: ignore[union-attr]
            self.merged = merged

    def unmerge(self) -> None:
        self.merged = None


ADAPTED.add(LoraLinear)


def require_rows(x: Tensor, chosen: int) -> None:
    """FathomError unless x is (b, t) or (b, t, n), with as many rows as adapters are chosen for."""
    if len(x) != chosen or (x.is_floating_point() and x.ndim != 3):
        raise FathomError(f"{counted(len(x), 'row')}, and adapters for {chosen}; choose one for each row, or None")


def product(base: Layer, x: Tensor) -> Tensor:
    """W x + bias, (..., in) -> (..., out), or rows of a table: without what a scaled end does after that."""
    if isinstance(base, ScaledEmbedding):
        return nn.Embedding.forward(base, x)
    return nn.Linear.forward(base, x) if isinstance(base, ScaledUnembed) else base(x)


def finished(base: Layer, y: Tensor) -> Tensor:
    """What a scaled end does with the sum of its own product and those of its adapters."""
    if isinstance(base, ScaledEmbedding):
        return y * base.scale
    return scaled(y, base.scale, base.cap) if isinstance(base, ScaledUnembed) else y


def features(base: Layer) -> tuple[int, int]:
    """(out, in); an embedding maps one of its vocabulary to a vector."""
    if isinstance(base, nn.Embedding):
        return base.embedding_dim, base.num_embeddings
    return base.out_features, base.in_features


def add_deltas(weight: Tensor, deltas: Iterable[tuple[Tensor, Weight]]) -> Tensor:
    """The matrix with the weighted deltas added in fp32, in its own dtype."""
    return sum((delta * factor for delta, factor in deltas), weight.float()).to(weight.dtype)


def float_layer(base: Layer, weight: Tensor) -> nn.Linear | nn.Embedding:
    """The layer with another matrix, in floats even where it was packed."""
    out, width = features(base)
    if isinstance(base, ScaledEmbedding | ScaledUnembed):
        new: nn.Linear | nn.Embedding = copy.copy(base)
        new._parameters = dict(base._parameters)
    else:
        with torch.device("meta"):
            new = nn.Embedding(width, out) if isinstance(base, nn.Embedding) else nn.Linear(width, out, bias=False)
    new.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if isinstance(new, nn.Linear):
        new.bias = base.bias  # type: ignore[assignment]
    return new.train(base.training)


def new_adapter(base: Layer, rank: int, scale: float, options: LoraOptions, generator: torch.Generator) -> Lora:
    """An adapter to be trained: a uniform within 1 / sqrt(in), as nn.Linear is initialised, and b = 0; PiSSA see there.

    FathomError where the layer cannot have the kind that the options ask for.
    """
    out, width = features(base)
    device = next(t.device for t in (*base.parameters(), *base.buffers()))
    a = ((torch.rand(rank, width, generator=generator) * 2 - 1) * width**-0.5).to(device)
    b = torch.zeros(out, rank, device=device)
    if isinstance(base, nn.Embedding):
        if options.dora or options.init == "pissa":
            raise FathomError("dora and pissa are for linear layers, and embed is a table; leave it out of the targets")
        return EmbeddingLora(a, b, scale, options.dropout)
    if options.dora:
        return Dora(a, b, scale, options.dropout, base.weight)
    if options.init == "pissa":
        if isinstance(base, QuantLinear):
            raise FathomError(
                "init is pissa, which takes the largest directions out of weights before they are packed, and these are"
                f" packed in {base.scheme.name}; leave init out, or give weights in floats (method lora)"
            )
        first = principal_components(base.weight, rank, scale)
        return Pissa(*first, scale, options.dropout, first)
    return Lora(a, b, scale, options.dropout)


def principal_components(weight: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """a (rank, in) and b (out, rank) with scale b a the best approximation of W of that rank."""
    terms = svd(weight.float()).cut(rank)
    b, a = SVD(terms.u, terms.s / scale, terms.v).factors()
    return a, b
