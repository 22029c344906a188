"""A model and what changed its matrices: the loss of one text when the change, or what it led to, is cut or scaled.

The change is what active adapters add, kept as factors, or the difference to another model of the same shape. Every
loss is by the model's own modules with other matrices (torch.func.functional_call): nothing is written into a model.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from fathom.adapters import lora
from fathom.adapters.layer import Layer, Lora, LoraLinear, Weight, new_adapter
from fathom.adapters.merge import merged_copy
from fathom.adapters.options import LoraOptions
from fathom.adapters.svd import SVD, numerical_rank
from fathom.adapters.targets import layers
from fathom.errors import FathomError
from fathom.inspect.identities import Residuals, named, off
from fathom.lab.spectra import Delta, terms
from fathom.lab.survey import delta_of
from fathom.model.transformer import Transformer

NEW = "new"  # what an adapter is called that is only looked at
SAME = "the two models have the same matrices"
STARTS = ("A random, B = 0", "A = B = 0", "A and B random")  # of an adapter, whose gradients are compared


@dataclass(frozen=True, eq=False)
class Changed:
    """A model, the layers before their matrices changed, and what was added to some of them, each read when needed.

    model: with the change, and with whatever else came with it, such as norms. read: the change of a layer.
    """

    model: Transformer
    layers: Mapping[str, Layer]
    names: tuple[str, ...]  # of the matrices that changed; with no change, of all
    read: Callable[[str], Delta] | None = None

    def before(self, layer: str) -> Tensor:
        """W, (out, in), or (V, d) of a table, in fp32."""
        return self.layers[layer].weight.detach().float()

    def delta(self, layer: str) -> Tensor:
        """dW in fp32; 0 where nothing was added."""
        if self.read is None or layer not in self.names:
            return torch.zeros_like(self.before(layer))
        return whole(self.read(layer))

    @cached_property
    def plain(self) -> Transformer:
        """The model with its adapters merged and its layers in floats; unchanged weights are shared."""
        return merged_copy(self.model)

    @property
    def work(self) -> int:
        """m n min(m, n) of all matrices that would be decomposed: what that costs, but for a factor."""
        shapes = [shape_of(self.layers[name]) for name in self.names]
        return sum(m * n * min(m, n) for m, n in shapes)


def shape_of(layer: Layer) -> tuple[int, int]:
    """(out, in), or (V, d) of a table: how its matrix is kept."""
    if isinstance(layer, nn.Embedding):
        return layer.num_embeddings, layer.embedding_dim
    return layer.out_features, layer.in_features


def own_layers(model: Transformer) -> dict[str, Layer]:
    """Every layer that can have an adapter, without those it has; of two tied ones the first."""
    found, tied = layers(model), model.config.resolved().tie_embeddings
    if tied and "unembed" in found:  # also where it keeps the packing of its file, and is unpacked for each use
        del found["unembed"]
    return found


def unchanged(model: Transformer) -> Changed:
    """A model by itself."""
    own = own_layers(model)
    return Changed(model, own, tuple(own))


def adapted(model: Transformer) -> Changed:
    """A model with adapters: what those that are active add. FathomError where none is."""
    active = dict(lora.active_adapters(model).weights)
    parts = {layer: part for layer, part in lora.wrapped(model).items() if active.keys() & part.adapters.keys()}
    if not parts:
        raise FathomError("the model has no active adapter; load it with adapter=FOLDER")
    return Changed(model, layers(model), tuple(parts), lambda name: added(parts[name], active))


@torch.no_grad()
def added(part: LoraLinear, weights: Mapping[str, Weight]) -> Delta:
    """What adapters with these weights add to a layer together, as factors where all of them have some."""
    deltas = [(delta_of(part, name), weight) for name, weight in weights.items() if name in part.adapters]
    factors = [(weight * delta[0], delta[1]) for delta, weight in deltas if not isinstance(delta, Tensor)]
    if len(factors) < len(deltas):
        return torch.stack([weight * whole(delta) for delta, weight in deltas]).sum(0)
    b, a = torch.cat([b for b, _ in factors], 1), torch.cat([a for _, a in factors])
    return (b, a) if len(a) <= min(len(b), a.shape[1]) else b @ a


def whole(delta: Delta) -> Tensor:
    """The matrix itself."""
    return delta if isinstance(delta, Tensor) else delta[0] @ delta[1]


@torch.no_grad()
def relative(changed: Changed, name: str) -> float:
    """The size of a change over that of its matrix, |dW| / |W| (Frobenius); 0 where nothing was added."""
    if changed.read is None or name not in changed.names:
        return 0.0
    delta = changed.read(name)
    if isinstance(delta, Tensor):
        size = delta.double().norm()
    else:  # |B A|^2 = sum of B'B times AA', both small
        b, a = (x.double() for x in delta)
        size = ((b.T @ b) * (a @ a.T)).sum().clamp(min=0).sqrt()
    return float(size / changed.before(name).double().norm().clamp(min=1e-30))


def towards(model: Transformer, other: Transformer) -> Changed:
    """From the matrices of one model to those of another, each without its adapters. FathomError where their shapes
    differ or none of them does."""
    before, after = own_layers(model), own_layers(other)
    if {n: shape_of(x) for n, x in before.items()} != {n: shape_of(x) for n, x in after.items()}:
        raise FathomError("the two models have matrices of other names or shapes, so there is no change between them")

    def difference(name: str) -> Tensor:
        return after[name].weight.detach().float() - before[name].weight.detach().float()

    names = tuple(name for name in before if difference(name).any())
    if not names:
        raise FathomError(f"{SAME}: nothing was changed")
    return Changed(other, before, names, difference)


@dataclass(frozen=True, eq=False)
class Decomposed:
    """A changed model, with the SVD of each change and of each matrix that it led to, and the text of every loss.

    ids: (1, t).
    """

    changed: Changed
    ids: Tensor

    @cached_property
    def changes(self) -> dict[str, SVD]:
        read = self.changed.read
        return {} if read is None else {name: terms(read(name)) for name in self.changed.names}

    @cached_property
    def reached(self) -> dict[str, SVD]:
        return {name: terms(self.changed.before(name) + self.changed.delta(name)) for name in self.changed.names}

    @property
    def full_rank(self) -> int:
        """From which on nothing is cut."""
        return max(min(shape_of(self.changed.layers[name])) for name in self.changed.names)

    def cut_change(self, rank: int) -> float:
        """The loss of W + the best of this rank of dW, in nats per token."""
        before = self.changed.before
        return loss(self.changed.plain, self.ids, {n: before(n) + cut(each, rank) for n, each in self.changes.items()})

    def cut_weights(self, rank: int) -> float:
        """The loss of the best of this rank of W + dW itself, in nats per token."""
        return loss(self.changed.plain, self.ids, {name: cut(each, rank) for name, each in self.reached.items()})

    def scaled(self, weight: float) -> float:
        """The loss of W + weight * dW, in nats per token."""
        changed = self.changed
        return loss(changed.plain, self.ids, {n: changed.before(n) + weight * changed.delta(n) for n in changed.names})


def cut(each: SVD, rank: int) -> Tensor:
    """The nearest matrix of this rank, or all of it where it has fewer terms."""
    return each.cut(min(rank, len(each.s))).matrix()


def loss(model: Transformer, ids: Tensor, matrices: Mapping[str, Tensor]) -> float:
    """Of the tokens after the first, in nats per token, with these matrices in the place of those of a plain model."""
    return next_token_loss(logits(model, ids, matrices), ids).item()


@torch.no_grad()
def logits(model: Transformer, ids: Tensor, matrices: Mapping[str, Tensor]) -> Tensor:
    """(1, t, V)"""
    own = model.embed.weight
    result: Tensor = functional_call(model, {f"{name}.weight": w.to(own) for name, w in matrices.items()}, (ids,))
    return result


def next_token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean of -log p over the tokens after the first, from logits (1, t, V). FathomError where there is none."""
    if ids.shape[1] < 2:
        raise FathomError("a loss needs a token to predict; give a text of two tokens or more")
    return F.cross_entropy(logits[0, :-1].float(), ids[0, 1:])


def ranks_up_to(full: int) -> list[int]:
    """0 to 4, then two to a doubling, and the full rank."""
    spread = {round(2 ** (n / 2)) for n in range(4, 2 * full.bit_length() + 1)}
    return sorted({*range(min(4, full) + 1), *(rank for rank in spread if rank < full), full})


@torch.enable_grad()
def gradients_at_init(model: Transformer, ids: Tensor, layer: str, rank: int) -> Tensor:
    """Norms of the gradients of A and of B of a new adapter on one layer, for each of STARTS: (3, 2).

    With B = 0 nothing reaches A, and with A = 0 nothing reaches B. Nothing reaches either on an expert that no token
    chose. The model itself is not changed.
    """
    copied, adapter = with_new_adapter(model, layer, rank)
    a = adapter.a.detach().clone()
    b = torch.randn(adapter.b.shape, generator=torch.Generator().manual_seed(0)).to(a) * a.std()
    rows = []
    for first, second in ((a, 0 * b), (0 * a, 0 * b), (a, b)):
        adapter.a.data.copy_(first)
        adapter.b.data.copy_(second)
        value = next_token_loss(copied(ids), ids) + 0 * adapter.b.sum()  # an expert that is not chosen has no graph
        found = torch.autograd.grad(value, (adapter.a, adapter.b), materialize_grads=True)
        rows.append([float(x.norm()) for x in found])
    return torch.tensor(rows)


def with_new_adapter(model: Transformer, layer: str, rank: int) -> tuple[Transformer, Lora]:
    """A copy that shares every tensor, with one more adapter on one layer as training starts it; and that adapter."""
    copied = copy.deepcopy(model, {id(x): x for x in (*model.parameters(), *model.buffers())})
    generator = torch.Generator().manual_seed(0)
    adapter = new_adapter(layers(copied)[layer], rank, 1.0, LoraOptions(rank=rank), generator)
    lora.attach(copied, {layer: adapter}, NEW)
    return copied, adapter


@torch.no_grad()
def at_init_it_changes_nothing(model: Transformer, ids: Tensor, layer: str, rank: int) -> Residuals:
    """The logits with a new adapter are those without it, to the bit."""
    copied, _ = with_new_adapter(model, layer, rank)
    with_it = copied(ids)
    lora.disable(copied, NEW)
    return {"an adapter at init changes nothing": off(with_it, copied(ids))}


@torch.no_grad()
def merged_as_it_runs(changed: Changed, ids: Tensor, running: Tensor, layer: str, rank: int) -> Residuals:
    """The logits of W + dW are those of the running model, (t, V), and one matrix of dW has no more than its rank."""
    merged = {name: changed.before(name) + changed.delta(name) for name in changed.names}
    s = terms(changed.read(layer)).s if changed.read and layer in changed.names else torch.zeros(1)
    return {
        "merged = unmerged": off(logits(changed.plain, ids, merged)[0], running),
        "rank of the change <= r": float(max(0, numerical_rank(s, shape_of(changed.layers[layer])) - rank)),
    }


def cut_loses_the_tail(matrix: Tensor, each: SVD, rank: int) -> Residuals:
    """|W - W_r|^2 = the sum of the squares of the singular values that were cut, as a share of |W|^2."""
    lost = (matrix.double() - cut(each, rank).double()).square().sum()
    total = matrix.double().square().sum().clamp(min=1e-300)
    return named("cut_loses_the_tail", float((lost - each.s[rank:].double().square().sum()).abs() / total))


def nearest_directions(before: SVD, after: SVD, strongest: int) -> Tensor:
    """(strongest,) of each of the strongest left singular vectors of W + dW, the largest |cosine| to any of W's."""
    return (before.u.double().T @ after.u[:, :strongest].double()).abs().amax(0)
