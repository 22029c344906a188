"""Which layers of a model a name or pattern means.

A pattern matches a layer when it matches the end of one of its names: ours (`attn.q`, `blocks.0.mlp.*`) or that of
Hugging Face (`q_proj`, `c_attn`, `self_attn.*`). `*` stands for anything between two dots.
"""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from fathom.adapters.layer import Layer, LoraLinear
from fathom.errors import FathomError, near
from fathom.families.names import Place, join, split
from fathom.families.registry import of_model
from fathom.families.shapes import weight_shapes
from fathom.inspect.names import matches
from fathom.model.transformer import Transformer
from fathom.quant.linear import QuantLinear

ALL_LINEAR, BLOCKS = "all-linear", "blocks."


def layers(model: nn.Module) -> dict[str, Layer]:
    """Every layer that can have an adapter, without those it has: linear ones, packed or not, and the embedding."""
    parts = dict(model.named_modules())
    inside = tuple(f"{name}." for name, part in parts.items() if isinstance(part, LoraLinear))
    return {
        name: part.base if isinstance(part, LoraLinear) else part
        for name, part in parts.items()
        if not name.startswith(inside) and (isinstance(part, nn.Linear | QuantLinear | LoraLinear) or name == "embed")
    }


def place(model: Transformer, name: str) -> Place:
    """Where a layer lies in files of Hugging Face; under our own name, where they hold no such model."""
    try:
        family = of_model(model.config, model.source)
    except FathomError:
        return Place(name)
    part, layer, _ = split(f"{name}.weight")
    cell = family.cell("hf", part)
    if cell.stacked:  # called as where each expert is a module
        name = f"{cell.name.rpartition('.')[0]}.experts.{cell.expert}.{part.rpartition('.')[2]}_proj"
        return Place(join(name, layer, ""))
    return replace(cell, name=join(cell.name, layer, ""))


def rows_in_file(model: Transformer, names: Iterable[str]) -> Tensor | None:
    """(out,) for each row of these layers, one after another, the row of the module that holds them in a file of
    Hugging Face: some rotate other pairs of channels, or keep q, k and v of each head together. None: the same rows."""
    names = list(names)
    try:
        places = of_model(model.config, model.source).places(model.config, "hf")
    except FathomError:
        return None
    stored = [places[f"{name}.weight"] for name in names if name != "embed" and f"{name}.weight" in places]
    stored = [] if any(each.stacked for each in stored) else stored  # experts are called as if each were a module
    if not any(each.pairs or each.swapped or each.grouped for each in stored):
        return None
    every = torch.arange(sum(weight_shapes(model.config)[f"{name}.weight"][0] for name in names))
    return torch.cat([each.read(every) for each in stored])


def modules(model: Transformer) -> dict[str, dict[str, Layer]]:
    """Hugging Face's modules, each with the layers that it holds, in order: q, k and v in c_attn."""
    found: dict[str, dict[str, Layer]] = {}
    for name, layer in layers(model).items():
        found.setdefault(place(model, name).name, {})[name] = layer
    return found


def select(model: Transformer, patterns: Iterable[str]) -> dict[str, list[str]]:
    """The layers that any of the patterns match, in the model's order, each with the patterns that match it.

    FathomError names a pattern that matches none, with near matches.
    """
    names = {name: (name, place(model, name).name) for name in layers(model)}
    selected: dict[str, list[str]] = {name: [] for name in names}
    for pattern in patterns:
        matching = [name for name, aliases in names.items() if matches_layer(pattern, aliases)]
        if not matching:
            known = dict.fromkeys(
                short for aliases in names.values() for name in aliases for short in short_names(name)
            )
            hint = near(pattern, known) or f"; layers are such as {', '.join(list(known)[:6])}"
            raise FathomError(f"{pattern!r} fits no layer of this model{hint}")
        for name in matching:
            selected[name].append(pattern)
    return {name: patterns for name, patterns in selected.items() if patterns}


def matches_layer(pattern: str, aliases: tuple[str, str]) -> bool:
    """Whether a pattern matches the end, beginning at a dot, of our name or that of Hugging Face."""
    if pattern == ALL_LINEAR:
        return aliases[0].startswith(BLOCKS)
    return any(matches(pattern, name) or matches(f"**.{pattern}", name) for name in aliases)


def short_names(name: str) -> list[str]:
    """What people call a layer: `q_proj`, `attn.q`; outside of the blocks its whole name."""
    *_, part, word = words = ["", *name.split(".")]
    return [name] if len(words) < 4 else [f"{part}.{word}", word]
