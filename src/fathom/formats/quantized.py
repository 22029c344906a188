"""Quantised Hugging Face folders: `quantization_config` read, and each packed layer given the place of its matrix.

What the configuration says must be understood as a whole: an unknown key that is not off, or an unknown value, is
refused. A matrix is unpacked when it is read; where a format of ours is the same (NF4), its codes can be kept.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fathom.errors import FathomError
from fathom.formats import bitsandbytes, compressed, float8, gptq, mlx, mxfp4
from fathom.formats.opened import Stored
from fathom.formats.packed_layer import Method, PackedLayer, Settings
from fathom.json_file import read_object, short
from fathom.words import counted

METHODS: Mapping[str, Method] = {
    "awq": gptq.AWQ,
    "bitsandbytes": bitsandbytes.METHOD,
    "compressed-tensors": compressed.METHOD,
    "fbgemm_fp8": float8.FP8,
    "fp8": float8.FP8,
    "gptq": gptq.GPTQ,
    "mxfp4": mxfp4.METHOD,
    "mlx": mlx.METHOD,  # named here: its files have no quant_method
}
KEYS = ("quantization_config", "quantization", "compression_config")  # the second is MLX's
TEXT = "text_config"  # of a model for pictures too: its part for texts
OFF: tuple[Any, ...] = (None, False, {}, [], "", 0)
EXCLUDED = ("modules_to_not_convert", "ignored_layers", "ignore", "llm_int8_skip_modules")  # layers that stay floats
OLD = {"quantize_config.json": "gptq", "quant_config.json": "awq"}  # beside a config.json that does not mention it
SYNONYMS = {"w_bit": "bits", "q_group_size": "group_size"}


def settings_of(values: Mapping[str, Any], where: str) -> Settings | None:
    """How the object of a config.json is quantised; None: it is not. FathomError where the method is unknown."""
    found = {key: values[key] for key in KEYS if values.get(key) is not None}
    if not found:
        inner = values.get(TEXT)
        return settings_of(inner, f"{where}: {TEXT}") if isinstance(inner, dict) else None
    entries = next(iter(found.values()))
    if not isinstance(entries, dict) or any(other != entries for other in found.values()):
        raise FathomError(f"{where}: {next(iter(found))} is {short(entries)}; expected one object with its settings")
    method = entries.get("quant_method")
    if method is None and "bits" in entries and "group_size" in entries:
        entries = entries | {"quant_method": "mlx"}
    elif method is None and (entries.get("load_in_4bit") or entries.get("load_in_8bit")):
        entries = entries | {"quant_method": "bitsandbytes"}
    if not isinstance(entries.get("quant_method"), str) or entries["quant_method"] not in METHODS:
        raise FathomError(
            f"{where}: quantization_config.quant_method is {short(method)}; supported are {', '.join(METHODS)};"
            " fetch the model in one of them, in bf16, or as GGUF"
        )
    return Settings(entries, where)


def unquantised(values: Mapping[str, Any]) -> dict[str, Any]:
    """The object of a config.json without what says how it is quantised."""
    kept = {key: value for key, value in values.items() if key not in KEYS}
    return kept | ({TEXT: unquantised(inner)} if isinstance(inner := kept.get(TEXT), dict) else {})


def old_settings(folder: Path, tensors: Iterable[str]) -> Settings | None:
    """The same of a file beside config.json, where tensors are packed and config.json does not say how."""
    for name, method in OLD.items():
        if (folder / name).is_file() and any(tensor.endswith(".qweight") for tensor in tensors):
            entries = {SYNONYMS.get(key, key): value for key, value in read_object(folder / name).items()}
            return Settings({"quant_method": method} | entries, str(folder / name))
    return None


def unpacked(settings: Settings, tensors: Mapping[str, Stored], where: str) -> dict[str, Stored]:
    """The tensors with one matrix (out, in) in the place of each packed layer. FathomError names the key or tensor."""
    method = METHODS[str(settings.entries["quant_method"])]
    require_understood(settings, method)
    result, layers = dict[str, Stored](), dict[str, dict[str, Stored]]()
    marks, others = ([method.between + part for part in parts] for parts in (method.marks, method.parts))
    marked = {name.removesuffix(mark) for mark in marks for name in tensors if name.endswith(mark)}
    for name, stored in tensors.items():
        layer = owner(name, marked, (*marks, *others))
        if layer is not None:
            layers.setdefault(layer, {})[name[len(layer) + 1 :]] = stored
        elif not re.fullmatch(method.skipped, name):
            result[name] = stored
    for name, parts in layers.items():
        if (entry := excluded(name, settings)) is not None:
            raise settings.error(entry, f"floats in {name[:80]}, which is packed")
        result[name + method.suffix] = method.unpack(PackedLayer(name, parts, where), settings)
    for name, stored in result.items():
        if stored.kind.startswith("F8") and name.removesuffix(".weight") not in layers and name.endswith(".weight"):
            known = " or ".join(method.marks)
            raise FathomError(f"{where}: {name[:80]} is {stored.kind} without a scale; expected {known} beside it")
    return result


def owner(name: str, layers: set[str], suffixes: Iterable[str]) -> str | None:
    """The packed layer that a tensor is part of."""
    for suffix in suffixes:
        if name.endswith(suffix) and name[: -len(suffix)] in layers:
            return name[: -len(suffix)]
    return None


def require_understood(settings: Settings, method: Method) -> None:
    """FathomError where a key has a value that is not supported, or is unknown and not off."""
    for key, value in settings.entries.items():
        if key in method.allowed:
            allowed = method.allowed[key]
            if value not in allowed and not (isinstance(value, dict) and value.get("format") == "dense" in allowed):
                raise settings.error(key, " or ".join(map(repr, allowed)))
        elif key not in method.known and key != "quant_method" and value not in OFF:
            if method is mlx.METHOD and isinstance(value, dict | bool):  # of a single layer
                continue
            raise settings.error(key, f"no such key in {method.title}; it may change what the model computes")


def excluded(layer: str, settings: Settings) -> str | None:
    """The key whose list names this layer as one that stays floats. Patterns are not followed: tensors show it."""
    for key in EXCLUDED:
        names = settings.entries.get(key)
        for name in names if isinstance(names, list) else []:
            if isinstance(name, str) and name and f".{name}." in f".{layer}.":
                return key
    return None


def how_packed(settings: Settings, matrices: Iterable[Stored]) -> str:
    """How many matrices are packed, and how: `14 matrices packed by GPTQ (GPTQ4)`."""
    method = METHODS[str(settings.entries["quant_method"])]
    kinds = Counter(stored.kind for stored in matrices)
    count = sum(kinds.values())
    types = f" ({', '.join(sorted(kinds))})" if kinds else ""
    return f"{counted(count, 'matrix', 'matrices')} packed by {method.title}{types}"
