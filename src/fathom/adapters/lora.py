"""The adapters of a model: added, enabled, weighted, merged, removed; several at once, or another for each row.

Everything happens from outside, on layers by their names. All deltas add up: W + sum of weight_i delta_i, so what one
delta is made of plays no part here.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from fathom.adapters.layer import (
    KINDS,
    ActiveAdapters,
    Dora,
    Lora,
    LoraLinear,
    Weight,
    features,
    new_adapter,
    require_rows,
)
from fathom.adapters.options import LoraOptions
from fathom.adapters.targets import layers, select
from fathom.anatomy.swap import swap
from fathom.backend.inference import InferenceModel
from fathom.errors import FathomError, near
from fathom.model.transformer import Transformer

TIED = "embed and unembed are one matrix; the adapter changes each only where it is a target, and merged they are two"


def add(model: Transformer, options: LoraOptions, name: str = "default", seed: int = 0) -> list[str]:
    """Wrap the layers that `options.targets` match, freeze all else, and return their names. Logits do not change.

    FathomError: a target matches nothing, a rank is larger than a matrix, there is an adapter of that name already.
    """
    require_available(model, name)
    targets = select(model, options.targets)
    patterns = select(model, [pattern for pattern, _ in (*options.ranks, *options.alphas)])
    bases, adapters = layers(model), dict[str, Lora]()
    for layer in targets:
        rank, scale = options.for_layer(patterns.get(layer, ()))
        out, width = features(bases[layer])
        if rank > min(out, width):
            raise FathomError(f"rank {rank} is larger than {layer}, {out} x {width}; give at most {min(out, width)}")
        generator = torch.Generator().manual_seed(seed + len(adapters))
        adapters[layer] = new_adapter(bases[layer], rank, scale, options, generator)
        adapters[layer].rslora = options.rslora
    attach(model, adapters, name)
    freeze(model, name)
    if model.config.tie_embeddings and adapters.keys() & {"embed", "unembed"}:
        warnings.warn(TIED, stacklevel=2)
    return list(adapters)


def require_available(model: Transformer, name: str) -> None:
    """FathomError where an adapter of this name cannot be added."""
    active_adapters(model).require_unmerged()
    if isinstance(model, InferenceModel):
        raise FathomError("the model is prepared for inference; add adapters first, then prepare it")
    if name in names(model) or not name.isidentifier() or hasattr(nn.ModuleDict, name):
        raise FathomError(
            f"an adapter cannot be called {name!r}; expected letters and digits, and a name not yet taken"
        )


def attach(model: Transformer, adapters: Mapping[str, Lora], name: str) -> None:
    """Put one adapter on these layers, enabled; a layer that has none yet is wrapped. FathomError, and nothing
    changed, where a layer is of a class of its own, whose matrix may not be all that it computes with."""
    active, own = active_adapters(model), wrapped(model)
    new = dict.fromkeys(KINDS, lambda base: LoraLinear(base, active))
    swap(model, new, names=[layer for layer in adapters if layer not in own])
    parts = wrapped(model)
    for layer, adapter in adapters.items():
        parts[layer].adapters[name] = adapter.train(parts[layer].training)
    active.enable(name)


def freeze(model: Transformer, name: str) -> None:
    """Let nothing but this adapter have gradients."""
    model.requires_grad_(False)
    for parameter in parameters(model, name):
        parameter.requires_grad_(True)


def active_adapters(model: Transformer) -> ActiveAdapters:
    """The active adapters of the model; a new object where it has no adapters yet."""
    return next((part.active for part in wrapped(model).values()), ActiveAdapters())


def wrapped(model: Transformer, name: str | None = None) -> dict[str, LoraLinear]:
    """The layers that have this adapter, or any. FathomError where no layer has it."""
    parts = {layer: part for layer, part in model.named_modules() if isinstance(part, LoraLinear)}
    if name is None:
        return parts
    if name not in (known := names(model)):
        raise FathomError(
            f"the model has no adapter {name!r}{near(name, known, then='it')} has {', '.join(known) or 'none'}"
        )
    return {layer: part for layer, part in parts.items() if name in part.adapters}


def names(model: Transformer) -> list[str]:
    """All adapters of the model, in the order in which they were added."""
    return list(dict.fromkeys(name for part in wrapped(model).values() for name in part.adapters))


def parameters(model: Transformer, name: str = "default") -> Iterator[nn.Parameter]:
    """The trainable parameters of an adapter."""
    for part in wrapped(model, name).values():
        yield from part.adapters[name].parameters()


def state_dict(model: Transformer, name: str = "default") -> dict[str, Tensor]:
    """Its tensors by name, such as `blocks.0.attn.q.a`; those of the model itself, not copies; a tied one once."""
    tensors: dict[str, Tensor] = {}
    for layer, part in wrapped(model, name).items():
        for key, x in part.adapters[name].state_dict(keep_vars=True).items():
            if all(x is not other for other in tensors.values()):
                tensors[f"{layer}.{key}"] = x
    return {key: x.detach() for key, x in tensors.items()}


def remove(model: Transformer, name: str) -> None:
    """Remove an adapter; a layer that has none left is the original layer again."""
    active, parts = active_adapters(model), wrapped(model, name)
    active.disable(name)
    for part in parts.values():
        del part.adapters[name]
    for tensor in active.replaced.values():
        tensor.values.pop(name, None)
    unused = [layer for layer, part in parts.items() if not len(part.adapters)]
    swap(model, {LoraLinear: lambda part: part.base}, names=unused)


def scale(model: Transformer, name: str, factor: Weight) -> None:
    """Enable the adapter with this weight: 1 as it was trained, 0 without effect."""
    wrapped(model, name)
    active_adapters(model).enable(name, factor)


def enable(model: Transformer, name: str | None = None) -> None:
    """Enable the adapter, or all of them: their deltas add up."""
    for each in names(model) if name is None else [name]:
        scale(model, each, 1.0)


def disable(model: Transformer, name: str | None = None) -> None:
    """Disable the adapter, or all of them: the model is its base again."""
    active = active_adapters(model)
    for each in names(model) if name is None else [name]:
        wrapped(model, each)
        active.disable(each)


def switch(model: Transformer, name: str | None) -> None:
    """Enable this adapter and no other; None: the base alone."""
    blend(model, {} if name is None else {name: 1.0})


def blend(model: Transformer, weights: Mapping[str, Weight]) -> None:
    """Enable these adapters with these weights, and no others: W + sum of weight_i delta_i."""
    for name in weights:
        wrapped(model, name)
    active_adapters(model).set(weights)


@contextlib.contextmanager
def per_row(model: Transformer, chosen: Sequence[str | None]) -> Iterator[None]:
    """`with per_row(model, ["french", None, "poems"]): ...` gives each row of a batch its own adapter; None: the base.

    For passes over the whole batch, `model(ids)`: FathomError in one over another number of rows, as `stream` makes
    when some have ended.
    """

    def check(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        require_rows(inputs[0], len(chosen))

    active = active_adapters(model)
    before = active.weights
    active.set(row_weights(model, chosen))
    hook = model.unembed.register_forward_pre_hook(check)  # the layers check their own rows
    try:
        yield
    finally:
        hook.remove()
        active.set(before)


def row_weights(model: Transformer, chosen: Sequence[str | None]) -> dict[str, Weight]:
    """The weights (b, 1, 1) with which each adapter counts in its own rows: all are computed for all rows."""
    own = model.embed.weight
    return {
        name: torch.tensor([row == name for row in chosen]).to(own.device, own.dtype)[:, None, None]  # (b, 1, 1)
        for name in dict.fromkeys(chosen)
        if name is not None and wrapped(model, name)
    }


def merge(model: Transformer, name: str | None = None) -> None:
    """Add the adapter, or all that are active, to the weights themselves, so that it costs nothing to run.

    The original layers are kept, so that `unmerge` is exact; a packed layer is a float one while merged.
    """
    active, parts = active_adapters(model), wrapped(model, name)
    active.require_unmerged()
    merged = [each for each in active.weights if name in (None, each)]
    if not merged:
        raise FathomError(f"no adapter {name or ''} is enabled, so there is nothing to merge; enable one first")
    others = active.weights.keys() - merged
    if any(isinstance(part.adapters[each], Dora) for part in parts.values() for each in others & part.adapters.keys()):
        raise FathomError(
            f"{name!r} shares layers with a DoRA, which needs the weights as they were; merge all at once"
        )
    for part in parts.values():
        part.merge(merged, model.embed.weight.dtype)
    active.merge(merged)


def unmerge(model: Transformer) -> None:
    """Undo `merge`, bit for bit."""
    for part in wrapped(model).values():
        part.unmerge()
    active_adapters(model).unmerge()
