"""Which layers of a model a name or pattern means.

A pattern fits a layer when it fits the end of one of its names: our own (`attn.q`, `blocks.0.mlp.*`) or that of Hugging
Face (`q_proj`, `c_attn`, `self_attn.*`). `*` stands for anything between two dots. Does not know adapters.
"""

from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from fathom.errors import FathomError, near
from fathom.formats.names import Place, column, family, join, split
from fathom.inspect.names import matches
from fathom.model.transformer import Transformer
from fathom.quant.linear import QuantLinear

ALL_LINEAR, BLOCKS = "all-linear", "blocks."


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every layer that can be adapted, by name: linear ones, packed or not, and the embedding."""
    found = dict[str, nn.Module]()
    for name, part in model.named_modules():
        if isinstance(part, nn.Linear | QuantLinear) or name in ("embed", "embed.base"):
            found[name.removesuffix(".base")] = part  # what an adapter stands on already is named as before
    return {name: part for name, part in found.items() if ".adapters." not in name}


def place(model: Transformer, name: str) -> Place:
    """Where a layer lies in files of Hugging Face; under our own name, where they hold no such model."""
    try:
        places = column(family(model.config), "hf")
    except FathomError:
        return Place(name)
    part, layer, _ = split(f"{name}.weight")
    return replace(places[part], name=join(places[part].name, layer, ""))


def modules(model: Transformer) -> dict[str, list[str]]:
    """Names of layers in files of Hugging Face, each with the layers that lie in it, in order: q, k and v in c_attn."""
    found: dict[str, list[str]] = {}
    for name in layers(model):
        found.setdefault(place(model, name).name, []).append(name)
    return found


def fits(pattern: str, names: Iterable[str]) -> bool:
    """Whether a pattern fits the end of one of the names, beginning at a dot."""
    return any(matches(pattern, name) or matches(f"**.{pattern}", name) for name in names)


def chosen(model: Transformer, patterns: Iterable[str]) -> dict[str, list[str]]:
    """The layers that are meant, in the model's order, each with the patterns that fit it.

    FathomError names a pattern that fits none, with near matches.
    """
    names = {name: [name, place(model, name).name] for name in layers(model)}
    found: dict[str, list[str]] = {name: [] for name in names}
    for pattern in patterns:
        fitting = [n for n in names if meant(pattern, n, names[n])]
        if not fitting:
            words = dict.fromkeys(end for each in names.values() for alias in each for end in ends(alias))
            likely = near(pattern, words) or f"; layers are such as {', '.join(list(words)[:6])}"
            raise FathomError(f"{pattern!r} fits no layer of this model{likely}")
        for name in fitting:
            found[name].append(pattern)
    return {name: patterns for name, patterns in found.items() if patterns}


def meant(pattern: str, name: str, names: Iterable[str]) -> bool:
    return name.startswith(BLOCKS) if pattern == ALL_LINEAR else fits(pattern, names)


def ends(name: str) -> list[str]:
    """What people call a layer: `q_proj`, `attn.q`, or all of its name where it stands in no block."""
    *_, part, word = words = ["", *name.split(".")]
    return [name] if len(words) < 4 else [f"{part}.{word}", word]
