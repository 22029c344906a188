"""LoRA: y = W x + scale b a x. W stays as it is; a (rank, in) and b (out, rank) are all that learns.

Hu et al. 2021, section 4.1, with scale = alpha / rank. A layer is wrapped from outside and the model never knows;
b begins at 0, so that an adapter begins by changing nothing. Does not know files or training.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.adapters.options import LoraOptions, layer_scale, of_layer
from fathom.adapters.targets import chosen, layers
from fathom.errors import FathomError, near
from fathom.model.transformer import Transformer
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

    def merge(self, names: list[str]) -> None:
        """Put W + delta in the place of W, for these adapters."""
        weights = [(self.delta(name), self.active[name]) for name in names if name in self.active]
        if weights:
            self.kept, self.waiting = self.base, self.active
            self.base = dense(self.base, changed(self.base.weight, weights))  # type: ignore[arg-type]
            self.active = {name: weight for name, weight in self.active.items() if name not in names}

    def unmerge(self) -> None:
        if self.kept is not None:
            self.base, self.active, self.kept = self.kept, self.waiting, None


def sizes(base: nn.Module) -> tuple[int, int]:
    """(out, in); an embedding reads one of its vocabulary and writes a vector."""
    if isinstance(base, nn.Embedding):
        return base.embedding_dim, base.num_embeddings
    assert isinstance(base, nn.Linear | QuantLinear)
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


def add(model: Transformer, options: LoraOptions, name: str = "default", seed: int = 0) -> list[str]:
    """Wrap the layers that `options.targets` mean, freeze all else, and return their names. Logits stay as they are.

    FathomError: a target fits nothing, a rank is larger than a matrix, there is an adapter of that name already.
    """
    admit(model, name)
    targets = chosen(model, options.targets)
    patterns = chosen(model, [pattern for pattern, _ in (*options.ranks, *options.alphas)])
    bases, made = layers(model), dict[str, Lora]()
    for layer in targets:
        rank = int(of_layer(options.ranks, patterns.get(layer, ())) or options.rank)
        scale = layer_scale(options, rank, of_layer(options.alphas, patterns.get(layer, ())))
        out, width = sizes(bases[layer])
        if rank > min(out, width):
            raise FathomError(f"rank {rank} is larger than {layer}, {out} x {width}; give at most {min(out, width)}")
        made[layer] = start(bases[layer], rank, scale, options, torch.Generator().manual_seed(seed + len(made)))
    attach(model, made, name)
    freeze(model, name)
    return list(made)


def start(base: nn.Module, rank: int, scale: float, options: LoraOptions, chance: torch.Generator) -> Lora:
    """A new adapter for one layer: a uniform within 1 / sqrt(in), as nn.Linear itself begins, and b = 0."""
    from fathom.adapters import variants  # here: they are made of what stands above

    out, width = sizes(base)
    device = next(t.device for t in (*base.parameters(), *base.buffers()))
    a = (torch.rand(rank, width, generator=chance) * 2 - 1) * width**-0.5
    plain = Lora(a.to(device), torch.zeros(out, rank, device=device), scale, options.dropout)
    made = variants.of(plain, base, options)
    made.rslora = options.rslora
    return made


def admit(model: Transformer, name: str) -> None:
    """FathomError where an adapter of this name cannot be added."""
    apart(model)
    if name in names(model) or not name.isidentifier() or hasattr(nn.ModuleDict, name):
        raise FathomError(
            f"an adapter cannot be called {name!r}; expected letters and digits, and a name not yet taken"
        )


def attach(model: Transformer, made: dict[str, Lora], name: str) -> None:
    """Put the adapters in their places, enabled; a layer that has none yet is wrapped."""
    for layer, adapter in made.items():
        part = model.get_submodule(layer)
        if not isinstance(part, LoraLinear):
            part = LoraLinear(part).train(part.training)
            model.set_submodule(layer, part)
        part.adapters[name] = adapter.train(part.training)
        part.active[name] = 1.0


def freeze(model: Transformer, name: str) -> None:
    """Let nothing have a gradient but this adapter."""
    model.requires_grad_(False)
    for parameter in parameters(model, name):
        parameter.requires_grad_(True)


def wrapped(model: Transformer, name: str | None = None) -> dict[str, LoraLinear]:
    """The layers that have this adapter, or any. FathomError where no layer has it."""
    found = {layer: part for layer, part in model.named_modules() if isinstance(part, LoraLinear)}
    if name is None:
        return found
    if name not in (known := names(model)):
        raise FathomError(f"the model has no adapter {name!r}{near(name, known)} It has {', '.join(known) or 'none'}")
    return {layer: part for layer, part in found.items() if name in part.adapters}


def names(model: Transformer) -> list[str]:
    """All adapters of the model, in the order in which they were added."""
    return list(dict.fromkeys(name for part in wrapped(model).values() for name in part.adapters))


def parameters(model: Transformer, name: str = "default") -> Iterator[nn.Parameter]:
    """All that learns of an adapter."""
    for part in wrapped(model, name).values():
        yield from part.adapters[name].parameters()


def state(model: Transformer, name: str = "default") -> dict[str, Tensor]:
    """Its tensors by name, such as `blocks.0.attn.q.a`; those of the model itself, not copies."""
    parts = wrapped(model, name)
    return {f"{layer}.{key}": x for layer, part in parts.items() for key, x in part.adapters[name].state_dict().items()}


def remove(model: Transformer, name: str) -> None:
    """Take an adapter away; a layer that has none left is the very layer it was."""
    apart(model)
    for layer, part in wrapped(model, name).items():
        del part.adapters[name]
        part.active.pop(name, None)
        if not len(part.adapters):
            model.set_submodule(layer, part.base)


def scale(model: Transformer, name: str, factor: Weight) -> None:
    """Let the adapter count by this factor, once more than off (0) or on (1)."""
    apart(model)
    for part in wrapped(model, name).values():
        part.active[name] = factor


def enable(model: Transformer, name: str | None = None) -> None:
    """Let the adapter count, or all of them: their changes add up."""
    for each in names(model) if name is None else [name]:
        scale(model, each, 1.0)


def disable(model: Transformer, name: str | None = None) -> None:
    """Let the adapter not count, or none of them: the model is its base again."""
    apart(model)
    for part in wrapped(model, name).values():
        part.active = {} if name is None else {each: by for each, by in part.active.items() if each != name}


def merge(model: Transformer, name: str | None = None) -> None:
    """Add the adapter, or all that are active, to the weights themselves: then it costs nothing to run. The layers as
    they were are kept, so that `unmerge` is exact; a packed layer is a float one while it is merged."""
    apart(model)
    parts = wrapped(model, name)
    if not any(part.active.keys() & {name or key for key in part.active} for part in parts.values()):
        raise FathomError(f"no adapter {name or ''} is enabled, so there is nothing to merge; enable one first")
    for part in parts.values():
        part.merge(list(part.active) if name is None else [name])


def unmerge(model: Transformer) -> None:
    """Undo `merge`, to the bit."""
    for part in wrapped(model).values():
        part.unmerge()


def apart(model: Transformer) -> None:
    """FathomError where adapters are merged."""
    if any(part.kept is not None for part in wrapped(model).values()):
        raise FathomError("adapters are merged into the weights; unmerge first")
