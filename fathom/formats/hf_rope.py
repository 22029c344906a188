"""How a Hugging Face config.json says what rotary positions are: `rope_scaling`, or `rope_parameters` since version 5.

Both may be there; they must not contradict each other. Field names and defaults are those of transformers'
modeling_rope_utils. What would turn by other angles than ours is refused by name. Knows no other field.
"""

import math
from collections.abc import Mapping
from typing import Any

from fathom.errors import FathomError
from fathom.json_file import field, short
from fathom.model.config import ResolvedConfig, RopeScaling

FIELDS: dict[str, dict[str, float | None]] = {  # rope_type -> its numbers besides factor, with their defaults
    "linear": {},
    "llama3": {"low_freq_factor": None, "high_freq_factor": None},
    "yarn": {"beta_fast": 32.0, "beta_slow": 1.0},
}
ALSO_AT_THE_TOP = ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
MOST = 1e30  # far below what overflows where angles are worked out
OTHER = {"partial_rotary_factor": (None, 1), "truncate": (None, True), "mrope_section": (None,)}  # value that is ours


def read_rope(values: Mapping[str, Any], context_length: int, where: str) -> tuple[float, RopeScaling | None]:
    """theta and scaling out of the object of config.json. FathomError names the field that we cannot follow."""
    said, where = _said(values, where), f"{where}: rope"
    for name, ours in OTHER.items():
        if said.get(name) not in ours:
            raise FathomError(f"{where} has {name}={short(said[name])}; expected none, other angles are not known here")
    theta = field(said, "rope_theta", float, where, 10_000.0)
    if not 1 < theta < MOST:
        raise FathomError(f"{where} has rope_theta={theta}; expected a base above 1")
    kind = field(said, "rope_type", str, where, "default")
    if kind == "default":
        return theta, None
    if kind not in FIELDS:
        raise FathomError(f"{where} has rope_type {short(kind)}; known are {', '.join(FIELDS)}")
    return theta, _scaling(kind, said, context_length, where)


def _scaling(kind: str, said: Mapping[str, Any], context_length: int, where: str) -> RopeScaling:
    """`rope_type` and its fields, where its equation has a value everywhere."""
    given = {name: field(said, name, float, where, default) for name, default in FIELDS[kind].items()}
    original = None
    if kind != "linear":
        original = field(said, "original_max_position_embeddings", int, where, context_length)
        _above(0, "original_max_position_embeddings", original, where)
    ratio = context_length / original if kind == "yarn" and original else None  # what stands for a factor left away
    factor = field(said, "factor", float, where, ratio)
    if not 1 <= factor < MOST:
        raise FathomError(f"{where} has factor={factor}; it must be at least 1")
    for name, value in given.items():
        _above(0, name, value, where)
    for lower, upper in (("low_freq_factor", "high_freq_factor"), ("beta_slow", "beta_fast")):
        if lower in given:
            _above(given[lower], upper, given[upper], where)
    if kind == "yarn" and (attention_factor := _attention_factor(said, factor, where)) is not None:
        given["attention_factor"] = _above(0, "attention_factor", attention_factor, where)
    return RopeScaling(kind=kind, factor=factor, original_context_length=original, **given)  # type: ignore[arg-type]


def _above(least: float, name: str, value: float, where: str) -> float:
    if not least < value < MOST:
        raise FathomError(f"{where} has {name}={value}; it must be above {least}")
    return value


def _said(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """All that is said of rope, in the words of version 5, from the three places where it may stand."""
    said: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        part = values.get(name) or {}
        if not isinstance(part, dict) or any(isinstance(value, dict) for value in part.values()):
            raise FathomError(f"{where}: {name} is {short(part)}; expected fields for all layers alike")
        part = {key: value for key, value in part.items() if value is not None}
        part = {"rope_type": part["type"]} | part if "type" in part else part
        _agree(said, part, f"{where}: {name}")
        said |= part
    top = {name: values[name] for name in ALSO_AT_THE_TOP if values.get(name) is not None}
    _agree(top, said, f"{where}: rope")
    return top | said


def _agree(one: Mapping[str, Any], other: Mapping[str, Any], where: str) -> None:
    for name in one.keys() & other.keys():
        if one[name] != other[name]:
            raise FathomError(f"{where} has {name} {short(other[name])}, elsewhere it is {short(one[name])}; keep one")


def _attention_factor(said: Mapping[str, Any], factor: float, where: str) -> float | None:
    """What q and k are multiplied by, where it is not 0.1 ln(factor) + 1 (which None stands for)."""
    if said.get("attention_factor") is not None:
        return field(said, "attention_factor", float, where, 1.0)
    scale, whole = (field(said, name, float, where, 0.0) for name in ("mscale", "mscale_all_dim"))
    if not scale or not whole:
        return None
    bend = 0.1 * math.log(factor)
    return (bend * scale + 1) / (bend * _above(0, "mscale_all_dim", whole, where) + 1)


def write_rope(config: ResolvedConfig) -> dict[str, Any]:
    """The fields of config.json in the words of both versions."""
    scaling = config.rope_scaling
    if scaling is None:
        said: dict[str, Any] = {"rope_type": "default"}
    else:
        said = {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind != "linear":
            said["original_max_position_embeddings"] = scaling.original_context_length or config.context_length
        said |= {name: getattr(scaling, name) for name in FIELDS[scaling.kind]}
        if scaling.attention_factor is not None:
            said["attention_factor"] = scaling.attention_factor
    return {
        "rope_theta": config.rope_theta,
        "rope_scaling": None if scaling is None else said,
        "rope_parameters": {**said, "rope_theta": config.rope_theta},
    }
