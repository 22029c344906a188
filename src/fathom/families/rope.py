"""Rotary positions as files describe them: theta and scaling in a config.json and in the metadata of a GGUF file.

config.json has `rope_scaling`, or `rope_parameters` since version 5, with the fields of transformers'
modeling_rope_utils. GGUF has keys (ggml, docs/gguf.md) but none for LLaMA 3.1: the converter writes by how much each
frequency is stretched, as the tensor rope_freqs.weight. Angles other than ours are refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fathom.families.family import Fields, Tensors
from fathom.families.values import Values
from fathom.json_file import short
from fathom.model.config import ModelConfig, ResolvedConfig, RopeScaling

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from fathom.lazy import torch


FIELDS: dict[str, dict[str, float | None]] = {  # rope_type -> its numbers besides factor, with their defaults
    "linear": {},
    "llama3": {"low_freq_factor": None, "high_freq_factor": None},
    "yarn": {"beta_fast": 32.0, "beta_slow": 1.0},
}
THETA = {  # where a file does not say, by model_type; 10000 in all others
    "cohere": 500_000.0, "ernie4_5": 500_000.0, "olmo3": 500_000.0, "helium": 100_000.0, "mixtral": 1_000_000.0,
    "smollm3": 2_000_000.0, "phimoe": 1_000_000.0, "gpt_oss": 150_000.0,
    "apertus": 12_000_000.0,
}  # fmt: skip
TOP = ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")  # may be outside of rope_scaling
OTHER = {"mrope_section": (None,)}  # value that is ours


def read_hf_rope(values: Values, context_length: int, head_dim: int | None = None) -> Fields:
    """rope_theta, rope_scaling and rope_rotated out of the object of config.json. head_dim: of a family that may rotate
    a part of its heads; None: of one that rotates all channels."""
    rope = Values(_merged(values), f"{values.where}: rope")
    for name, ours in OTHER.items():
        if rope.entries.get(name) not in ours:
            raise rope.error(f"{name}={short(rope.entries[name])} is not supported; expected none or {ours[-1]}")
    part = rope.number("partial_rotary_factor", 1.0)
    if part > 1 or (part != 1 and head_dim is None):
        raise rope.error(f"partial_rotary_factor={part:g} is not supported; expected none or 1")
    rotated = None if part == 1 else int((head_dim or 0) * part)
    usual = THETA.get(str(values.entries.get("model_type")), 10_000.0)
    fields: dict[str, Any] = {"rope_theta": rope.number("rope_theta", usual, above=1.0), "rope_rotated": rotated}
    kind = rope.get("rope_type", str, "default")
    if kind == "default":
        return fields
    if kind == "longrope" and head_dim is not None:
        return {**fields, "rope_scaling": _longrope(rope, context_length)}
    if kind not in FIELDS:
        raise rope.error(f"rope_type {short(kind)} is not supported; choose one of {', '.join(FIELDS)}")
    return {**fields, "rope_scaling": _hf_scaling(kind, rope, context_length)}


def alike(z: ResolvedConfig) -> bool:
    """Whether all layers rotate alike, in texts of every length."""
    return z.rope.local_theta is None and (z.rope.scaling is None or z.rope.scaling.kind != "longrope")


def read_hf_rotations(values: Values, context_length: int) -> Fields | None:
    """The rotations of layers without and with a window, where `rope_parameters` has both; None where it has one."""
    nested = values.entries.get("rope_parameters")
    if not isinstance(nested, dict) or not any(isinstance(part, dict) for part in nested.values()):
        return None
    parts = [nested.get(kind) for kind in ("full_attention", "sliding_attention")]
    if not all(isinstance(part, dict) for part in parts) or len(nested) != 2:
        raise values.error(f"rope_parameters is {short(nested)}; expected full_attention and sliding_attention")
    both = [Values({"rope_parameters": part}, f"{values.where}: rope_parameters") for part in parts]
    far, near = (read_hf_rope(part, context_length) for part in both)
    if near.get("rope_scaling"):
        raise values.error("rope_parameters stretch layers with a window; expected rope_type default there")
    alike = near["rope_theta"] == far["rope_theta"] and not far.get("rope_scaling")
    return {**far, "rope_local_theta": None if alike else near["rope_theta"]}


def _longrope(rope: Values, context_length: int) -> RopeScaling:
    """LongRoPE's two lists of factors; the context length over the original one is its factor."""
    original = rope.count("original_max_position_embeddings", context_length)
    lists: dict[str, Any] = {}
    for name in ("short_factor", "long_factor"):
        given = rope.entries.get(name)
        if not isinstance(given, list) or not all(isinstance(x, int | float) and 0 < x < 1e6 for x in given):
            raise rope.error(f"{name} is {short(given)}; expected a list of numbers above 0")
        lists[name.removesuffix("_factor")] = tuple(map(float, given))
    if "attention_factor" in rope:
        lists["attention_factor"] = rope.number("attention_factor")
    return RopeScaling(kind="longrope", factor=context_length / original, original_context_length=original, **lists)


def _hf_scaling(kind: str, rope: Values, context_length: int) -> RopeScaling:
    """`rope_type` and its fields, where its equation has a value everywhere."""
    original = None if kind == "linear" else rope.count("original_max_position_embeddings", context_length)
    ratio = context_length / original if kind == "yarn" and original else None  # what a missing factor means
    factor = rope.number("factor", ratio)
    if factor < 1:
        raise rope.error(f"factor is {factor}; it must be at least 1")
    given: dict[str, Any] = {name: rope.number(name, default) for name, default in FIELDS[kind].items()}
    for lower, upper in (("low_freq_factor", "high_freq_factor"), ("beta_slow", "beta_fast")):
        if lower in given:
            rope.number(upper, FIELDS[kind][upper], above=given[lower])
    if kind == "yarn":
        given |= _attention_factor(rope, factor) | {"truncate": rope.get("truncate", bool, True)}
    return RopeScaling(kind=kind, factor=factor, original_context_length=original, **given)  # type: ignore[arg-type]


def _merged(values: Values) -> dict[str, Any]:
    """All fields of rope, as version 5 calls them, from the three places where they may be; they must agree."""
    merged: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        part = values.entries.get(name) or {}
        if not isinstance(part, dict) or any(isinstance(value, dict) for value in part.values()):
            raise values.error(f"{name} is {short(part)}; expected fields for all layers alike")
        part = {key: value for key, value in part.items() if value is not None}
        part = {"rope_type": part["type"]} | part if "type" in part else part
        _require_agreement(merged, part, values, name)
        merged |= part
    top = {name: values.entries[name] for name in TOP if name in values}
    _require_agreement(top, merged, values, "rope")
    return top | merged


def _require_agreement(one: Mapping[str, Any], other: Mapping[str, Any], values: Values, where: str) -> None:
    for name in one.keys() & other.keys():
        if one[name] != other[name]:
            raise values.error(f"{where} has {name} {short(other[name])}, elsewhere it is {short(one[name])}; keep one")


def _attention_factor(rope: Values, factor: float) -> dict[str, float]:
    """What q and k are multiplied by; nothing where it is 0.1 ln(factor) + 1."""
    if "attention_factor" in rope:
        return {"attention_factor": rope.number("attention_factor")}
    scale, whole = (rope.get(name, float, 0.0) for name in ("mscale", "mscale_all_dim"))
    if not scale or not whole:
        return {}
    bend = 0.1 * math.log(factor)
    value = (bend * scale + 1) / (bend * rope.number("mscale_all_dim") + 1)
    return {"attention_factor": Values({"attention_factor": value}, rope.where).number("attention_factor")}


def write_hf_rope(config: ResolvedConfig) -> dict[str, Any]:
    """The fields of config.json, as both versions call them."""
    scaling = config.rope.scaling
    rope: dict[str, Any] = {"rope_type": "default"}
    if scaling is not None:
        rope = {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind != "linear":
            rope["original_max_position_embeddings"] = scaling.original_context_length or config.context_length
        rope |= {name: getattr(scaling, name) for name in FIELDS.get(scaling.kind, {})}
        if scaling.kind == "longrope":
            rope |= {"short_factor": list(scaling.short), "long_factor": list(scaling.long)}
        if scaling.attention_factor is not None:
            rope["attention_factor"] = scaling.attention_factor
        rope |= {} if scaling.truncate else {"truncate": False}
    rotated = {"partial_rotary_factor": config.rope.rotated / config.head_dim} if config.rope.rotated else {}
    return {
        **rotated,
        "rope_theta": config.rope.theta,
        "rope_scaling": None if scaling is None else rope,
        "rope_parameters": {**rope, **rotated, "rope_theta": config.rope.theta},
    }


def write_hf_rotations(config: ResolvedConfig) -> dict[str, Any]:
    """The same, with the rotations of layers without and with a window apart in `rope_parameters`."""
    rope = write_hf_rope(config)
    near = {"rope_type": "default", "rope_theta": config.rope.local_theta or config.rope.theta}
    return {**rope, "rope_parameters": {"full_attention": rope["rope_parameters"], "sliding_attention": near}}


STRETCH = "rope_freqs.weight"  # (c/2,) by how much each frequency is divided
LLAMA3_ORIGINAL = 8192  # what the converter assumes where a model does not say for which context it was trained


def read_gguf_rope(values: Values, config: ModelConfig, tensors: Tensors) -> RopeScaling | None:
    """The scaling in a GGUF file. The older key `rope.scale_linear`, or a factor alone, is linear scaling."""
    factor = values.number("rope.scaling.factor", values.number("rope.scale_linear", 1.0))
    kind = values.get("rope.scaling.type", str, "linear" if factor != 1 else "none")
    temperature = values.number("rope.scaling.attn_factor", 1.0)
    original_key = "rope.scaling.original_context_length"  # 0 means that it is not said
    original = values.count(original_key) if values.get(original_key, int, 0) else None
    if kind not in ("none", "linear", "yarn") or (temperature != 1 and kind != "yarn"):
        raise values.error(
            f"{values.prefix}rope.scaling.type is {short(kind)}; expected none, linear or yarn, and attn_factor with"
            " yarn alone"
        )
    if STRETCH in tensors:
        if kind != "none" and factor != 1:
            raise values.error(f"{values.prefix}rope.scaling.type is {kind!r}; expected none beside a tensor {STRETCH}")
        return _llama3(values, config, tensors[STRETCH].read(), original)
    if kind == "none" or (kind == "linear" and factor == 1):
        return None
    if kind == "linear":
        return RopeScaling(kind="linear", factor=factor, original_context_length=original)
    scaling = RopeScaling(
        kind="yarn",
        factor=factor,
        original_context_length=original,
        beta_fast=values.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=values.number("rope.scaling.yarn_beta_slow", 1.0),
    )
    if temperature != 1:  # llama.cpp multiplies it onto the usual temperature
        return replace(scaling, attention_factor=_decimal(temperature * _temperature(factor)))
    if "rope.scaling.yarn_attn_factor" in values:  # the model's own value, which is all of it
        return replace(scaling, attention_factor=values.number("rope.scaling.yarn_attn_factor"))
    return scaling


def _llama3(values: Values, config: ModelConfig, stretch: Tensor, original: int | None) -> RopeScaling:
    """The scaling that stretches each frequency by `stretch` (c/2,). FathomError where none does."""
    long = original is None and config.context_length > LLAMA3_ORIGINAL
    usual = LLAMA3_ORIGINAL if long else original
    scaling = RopeScaling(
        kind="llama3",
        factor=_decimal(float(stretch.max())),
        original_context_length=usual,
        low_freq_factor=values.number("rope.scaling.low_freq_factor", 1.0),
        high_freq_factor=values.number("rope.scaling.high_freq_factor", 4.0),
    )
    z = config.resolved()
    sound = 1 <= scaling.factor < math.inf and 0 < scaling.low_freq_factor < scaling.high_freq_factor
    if sound and stretch.shape == (z.head_dim // 2,) and bool((stretch >= 1).all()):
        others = [] if original else [replace(scaling, original_context_length=_original(scaling, z, stretch))]
        for one in (scaling, *others):  # converters leave the original context out
            stretched = replace(config, rope=replace(config.rope, scaling=one)).resolved()
            if torch.allclose(stretch.float(), stretch_of(stretched), rtol=1e-4):
                return one
    raise values.error(
        f"{STRETCH} is not what LLaMA 3.1 does: its factor would be {scaling.factor:g}, its bands "
        f"{scaling.low_freq_factor:g} and {scaling.high_freq_factor:g}, its original context "
        f"{usual or config.context_length}; other stretched rotations are not supported"
    )


def _original(scaling: RopeScaling, z: ResolvedConfig, stretch: Tensor) -> int:
    """The context for which a model was trained, as far as its stretched frequencies tell: how often one between the
    bands turned in it, or that the fastest ones alone did not change."""
    low, high, least = scaling.low_freq_factor, scaling.high_freq_factor, 1.0
    for i, divisor in enumerate(stretch.double().tolist()):
        wavelength = 2 * math.pi * z.rope.theta ** (2 * i / z.head_dim)
        if 1.0001 < divisor < 0.9999 * scaling.factor:
            share = (1 / divisor - 1 / scaling.factor) / (1 - 1 / scaling.factor)
            return max(1, round((low + share * (high - low)) * wavelength))
        least = high * wavelength if divisor < 1.0001 else least
    return math.ceil(least)


def stretch_of(config: ResolvedConfig) -> Tensor:
    """(c/2,) by how much the config's scaling divides each frequency."""
    from fathom.model.position import frequencies  # imports torch

    return frequencies(replace(config, rope=replace(config.rope, scaling=None))) / frequencies(config)


def gguf_rope_tensors(config: ResolvedConfig) -> dict[str, Tensor]:
    """The tensor that describes LLaMA 3.1's scaling, where the model has it."""
    llama3 = config.rope.scaling is not None and config.rope.scaling.kind == "llama3"
    return {STRETCH: stretch_of(config)} if llama3 else {}


def write_gguf_rope(config: ResolvedConfig) -> dict[str, Any]:
    """The keys of the scaling."""
    scaling = config.rope.scaling
    if scaling is None:
        return {}
    original = scaling.original_context_length
    keys: dict[str, Any] = {"original_context_length": original} if original else {}
    if scaling.kind == "llama3":  # llama.cpp reads the tensor alone; the rest is so that we can read it back
        if original is None and config.context_length > LLAMA3_ORIGINAL:
            keys["original_context_length"] = config.context_length
        keys |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    else:
        keys |= {"type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "yarn":
        keys |= {"yarn_beta_fast": scaling.beta_fast, "yarn_beta_slow": scaling.beta_slow}
        if scaling.attention_factor is not None:
            keys["attn_factor"] = scaling.attention_factor / _temperature(scaling.factor)
    return {f"rope.scaling.{key}": value for key, value in keys.items()}


def _temperature(factor: float) -> float:
    """What YaRN multiplies q and k by where nothing else is said."""
    return 0.1 * math.log(factor) + 1


def _decimal(x: float) -> float:
    """Without the rounding of fp32: 8.000001 is 8."""
    return float(f"{x:.6g}")
