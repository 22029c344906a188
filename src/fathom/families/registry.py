"""All families: every module of this package that defines a `FAMILY`. A new family is a new file and nothing else."""

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import fathom.families as package
from fathom.errors import FathomError
from fathom.families.family import Family, Tensors
from fathom.families.gguf_columns import arranged
from fathom.families.gguf_limits import require_place, require_runnable
from fathom.families.unsupported import why_not, why_not_gguf
from fathom.families.values import Values
from fathom.json_file import short
from fathom.model.config import ModelConfig

HELPERS = (
    "experts",
    "family",
    "gguf_columns",
    "gguf_experts",
    "gguf_limits",
    "names",
    "plain",
    "registry",
    "rope",
    "shapes",
    "sliding",
    "unsupported",
    "values",
)  # of this package: no families


@cache
def families() -> Mapping[str, Family]:
    """By name, in alphabetical order."""
    modules = [module for module in iter_modules(package.__path__) if module.name not in HELPERS]
    imported = [import_module(f"{package.__name__}.{module.name}") for module in modules]
    unsorted = [module.FAMILY for module in imported]
    return {family.name: family for family in sorted(unsorted, key=lambda family: family.name)}


def of(config: ModelConfig) -> Family:
    """The family in whose files a model is written: of those that fit, the one with the most choices.

    FathomError where none fits.
    """
    z, known = config.resolved(), families()
    if fitting := [family for family in known.values() if family.fits(z)]:
        narrowest = max(fitting, key=lambda family: len(family.choices))
        return known[narrowest.written_as or narrowest.name]
    raise FathomError(
        f"no other format holds a model with {obstacles(config)}; keep the run folder, or train with those values"
    )


def of_model(config: ModelConfig, source: str | None) -> Family:
    """The family whose names a model has at Hugging Face: the one it was read from, else the one it is written in."""
    family = families().get(source or "")
    return family if family is not None and "hf" in family.columns else of(config)


def obstacles(config: ModelConfig) -> str:
    """The fields that keep a model out of the family it is nearest to, and that family's values, in words."""
    z, found = config.resolved(), []
    for family in (family for family in families().values() if family.written_as is None):
        wrong = family.mismatches(z)
        found.append((len(wrong), len(wrong) - len(family.choices), len(family.free), family.title, wrong))
    *_, title, wrong = min(found)
    if not wrong:  # the choices are right, and the sizes are not
        names = ("d_model", "n_head", "n_kv_head", "head_dim")
        sizes = ", ".join(f"{name}={getattr(z, name)}" for name in names)
        return f"{sizes}, bias={','.join(z.bias) or 'off'} (which {title} cannot have)"
    ours, theirs = (", ".join(f"{name}={pair[i]}" for name, *pair in wrong) for i in (0, 1))
    return f"{ours} ({title} has {theirs})"


def formats(config: ModelConfig) -> tuple[Family, list[str]] | None:
    """The family in whose files a model is written, and the formats that hold this model; None where there is none."""
    try:
        family = of(config)
    except FathomError:
        return None
    held = [name for name in family.columns if name != "ours" and holds(family, name, config)]
    return (family, held) if held else None


def holds(family: Family, format: str, config: ModelConfig) -> bool:
    try:
        to_gguf(config) if format == "gguf" else family.write(format, config)
    except FathomError:
        return False
    return config.resolved().qk_norm == "off" or any(part.endswith("q_norm") for part in family.columns[format].tensors)


def in_gguf(config: ModelConfig) -> tuple[Family, dict[str, Any]]:
    """The family as whose architecture a model is written in GGUF, and the keys: its own, or a wider one where
    llama.cpp does not run these sizes in its own. FathomError says what its own lacks."""
    own, z = of(config), config.resolved()
    require_place(own.name, z)
    problem = None
    wider = [x for x in families().values() if "gguf" in x.columns and x.written_as is None and x.fits(z)]
    for family in (own, *sorted(wider, key=lambda family: -len(family.choices))):
        try:
            require_runnable(family.column("gguf").ids[0], z)
            return family, family.write("gguf", config)
        except FathomError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def from_hf(entries: Mapping[str, Any], where: str) -> tuple[Family, ModelConfig]:
    """The model that the object of a config.json describes; `where` names the file in errors."""
    name, values = entries.get("model_type"), Values(entries, where)
    family = with_id("hf", name, entries)
    if family is None:
        reason = why_not(entries, families()) or f"supported are {', '.join(ids('hf'))}"
        classes = short(entries.get("architectures"))
        raise values.error(f"model_type is {short(name)}, architectures {classes}; {reason}")
    return family, family.read("hf", values, {})


def from_gguf(metadata: dict[str, Any], tensors: Tensors, where: str) -> tuple[Family, ModelConfig]:
    """The model that the metadata of a GGUF file describes, of which nothing is asked that does not belong to it."""
    name = metadata.get("general.architecture")
    family = with_id("gguf", name, ChainMap(metadata, dict(tensors)))
    if family is None:
        reason = why_not_gguf(name, tensors, families()) or f"supported are {', '.join(ids('gguf'))}"
        raise FathomError(f"{where}: general.architecture is {short(name)}; {reason}")
    family = replace(family, columns={**family.columns, "gguf": arranged(family.columns["gguf"], tensors)})
    embed = tensors.get(family.columns["gguf"].tensors["embed"].name + ".weight")
    sizes = {} if embed is None else {f"{name}.vocab_size": embed.shape[0]}  # many files do not say it
    return family, family.read("gguf", Values(ChainMap(metadata, sizes), where, f"{name}."), tensors)


def to_gguf(config: ModelConfig) -> dict[str, Any]:
    """The metadata that describes this model. FathomError where it belongs to no family."""
    family, keys = in_gguf(config)
    name = family.columns["gguf"].ids[0]
    return {"general.architecture": name} | {f"{name}.{key}": value for key, value in keys.items()}


def with_id(format: str, name: object, entries: Mapping[str, Any] | None = None) -> Family | None:
    """The family with this id in files of a format; of several, the one to which these entries of the file belong."""
    found = [f for f in families().values() if format in f.columns and name in f.columns[format].ids]
    return next((f for f in found if f.columns[format].applies(entries or {})), None)


def ids(format: str) -> list[str]:
    """The ids of all families in files of a format."""
    return list(
        dict.fromkeys(name for f in families().values() if format in f.columns for name in f.columns[format].ids)
    )
