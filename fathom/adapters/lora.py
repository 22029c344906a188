"""Adapters on a model: added, removed, enabled, merged. What an adapter is stands in `layer`.

All of it works from outside, on the layers by their names, and the model never knows. An adapter begins by changing
nothing, as its b begins at 0. Does not know files or training.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from fathom.adapters.layer import Dora, Lora, LoraLinear, Weight, of, sizes
from fathom.adapters.options import LoraOptions, layer_scale, of_layer
from fathom.adapters.targets import chosen, layers
from fathom.backend.inference import QuickTransformer
from fathom.errors import FathomError, near
from fathom.model.transformer import Transformer

TIED = "embed and unembed are one matrix; the adapter changes each only where it is a target, and merged they are two"


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
    if model.config.tie_embeddings and made.keys() & {"embed", "unembed"}:
        warnings.warn(TIED, stacklevel=2)
    return list(made)


def start(base: nn.Module, rank: int, scale: float, options: LoraOptions, chance: torch.Generator) -> Lora:
    """A new adapter for one layer: a uniform within 1 / sqrt(in), as nn.Linear itself begins, and b = 0."""
    out, width = sizes(base)
    device = next(t.device for t in (*base.parameters(), *base.buffers()))
    a = (torch.rand(rank, width, generator=chance) * 2 - 1) * width**-0.5
    plain = Lora(a.to(device), torch.zeros(out, rank, device=device), scale, options.dropout)
    made = of(plain, base, options)
    made.rslora = options.rslora
    return made


def admit(model: Transformer, name: str) -> None:
    """FathomError where an adapter of this name cannot be added."""
    apart(model)
    if isinstance(model, QuickTransformer):
        raise FathomError("the model was made ready for inference; add adapters first, and make it ready then")
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
        raise FathomError(
            f"the model has no adapter {name!r}{near(name, known) or ';'} It has {', '.join(known) or 'none'}"
        )
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
    if name is not None and any(leans(part, name) for part in parts.values()):
        raise FathomError(
            f"{name!r} shares layers with a DoRA, which needs the weights as they were; merge all at once"
        )
    for part in parts.values():
        part.merge(list(part.active) if name is None else [name], model.embed.weight.dtype)


def leans(part: LoraLinear, name: str) -> bool:
    """Whether a DoRA would go on working out its change from weights that `name` was merged into."""
    return any(isinstance(part.adapters[each], Dora) for each in part.active if each != name)


def unmerge(model: Transformer) -> None:
    """Undo `merge`, to the bit."""
    for part in wrapped(model).values():
        part.unmerge()


def apart(model: Transformer) -> None:
    """FathomError where adapters are merged."""
    if any(part.kept is not None for part in wrapped(model).values()):
        raise FathomError("adapters are merged into the weights; unmerge first")


# Several adapters in one model: one at a time, a blend of them, or another one for each row of a batch.
#
# What adapters add to a matrix adds up: W + sum of weight_i delta_i. Does not know what a delta is made of.


def switch(model: Transformer, name: str | None) -> None:
    """Let this adapter count and no other; None: the base alone."""
    blend(model, {} if name is None else {name: 1.0})


def blend(model: Transformer, weights: Mapping[str, Weight]) -> None:
    """Let these adapters count, each by its weight, and no other: W + sum of weight_i delta_i."""
    for name in weights:
        wrapped(model, name)  # that there is such a one, before anything changes
    disable(model)
    for name, weight in weights.items():
        scale(model, name, weight)


@contextlib.contextmanager
def rows(model: Transformer, chosen: Sequence[str | None]) -> Iterator[None]:
    """`with rows(model, ["french", None, "poems"]): ...` gives each row of a batch its own adapter; None: the base.

    Every adapter named is worked out for all rows, and counts 0 in those of others. For passes over the whole batch,
    `model(ids)`: FathomError in one over another number of rows, as `stream` makes when some have ended.
    """
    apart(model)
    own, parts = model.embed.weight, wrapped(model).values()
    weights = {
        name: torch.tensor([row == name for row in chosen]).to(own.device, own.dtype)[:, None, None]  # (b, 1, 1)
        for name in dict.fromkeys(chosen)
        if name is not None and wrapped(model, name)
    }
    before = [part.active for part in parts]

    def count(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if len(given[0]) != len(chosen) or (given[0].is_floating_point() and given[0].ndim != 3):
            raise FathomError(f"{len(given[0])} rows, and adapters for {len(chosen)}; choose one for each row, or None")

    hooks = [part.register_forward_pre_hook(count) for part in (model.embed, model.unembed)]
    try:
        for part in parts:
            part.active = {name: weight for name, weight in weights.items() if name in part.adapters}
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for part, active in zip(parts, before):
            part.active = active
