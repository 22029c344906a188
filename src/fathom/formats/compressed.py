"""Layers of the compressed-tensors library: whole numbers packed into words or in bytes, and 8-bit floats.

Each layer's bits, groups and zero points follow from its tensors and must be those of a group of the configuration.
Scales of activations and of the cache are not used: both stay floats here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fathom.formats.float8 import FP8, KINDS, ZERO, is_block, scaled
from fathom.formats.opened import Stored
from fathom.formats.packed_layer import Method, PackedLayer, Settings, by_groups, codes_in, names, order_of
from fathom.json_file import short

if TYPE_CHECKING:
    from torch import Tensor
else:
    pass


WORD = 32
FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision", "dense", None)
WEIGHTS: dict[str, tuple[Any, ...]] = {  # of a group's `weights`: what is understood
    "type": ("int", "float"),
    "num_bits": (2, 4, 8),
    "strategy": ("tensor", "channel", "group", "block"),
    "dynamic": (False, None),
    "actorder": (None, False, "group", "weight", "static", "dynamic"),
}


def unpack(layer: PackedLayer, settings: Settings) -> Stored:
    """The matrix of a layer, packed or not."""
    groups = weight_groups(settings)
    return packed(layer, groups) if "weight_packed" in layer.parts else in_bytes(layer, groups)


def weight_groups(settings: Settings) -> list[Mapping[str, Any]]:
    """The `weights` of each group of the configuration, checked."""
    groups = settings.entries.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise settings.error("config_groups", "groups of layers")
    found: list[Mapping[str, Any]] = []
    for name, group in groups.items():
        weights = group.get("weights") if isinstance(group, dict) else None
        if not isinstance(weights, dict):
            raise settings.error("config_groups", f"an object under {name[:40]}.weights")
        if group.get("format") not in FORMATS:
            raise settings.error("config_groups", f"a format of {', '.join(filter(None, FORMATS))} in {name[:40]}")
        for key, allowed in WEIGHTS.items():
            value = weights.get(key)
            if isinstance(value, list | dict) or value not in allowed:
                wanted = f"weights.{key} one of {', '.join(map(str, allowed))}"
                raise settings.error("config_groups", f"{wanted} in {name[:40]}, not {short(value)}")
        if weights["strategy"] == "block" and not is_block(weights.get("block_structure")):
            raise settings.error("config_groups", f"weights.block_structure of two sizes in {name[:40]}")
        found.append(weights)
    return found


def packed(layer: PackedLayer, groups: list[Mapping[str, Any]]) -> Stored:
    """Codes in words along the inputs, less half of their range; zero points in words along the outputs."""
    words = layer.part("weight_packed", ("I32",), (0, 0))
    sizes = layer.part("weight_shape", ("I64", "I32"), (2,))
    raw = sizes.content(16)
    out, width = (int.from_bytes(raw[i : i + len(raw) // 2], "little", signed=True) for i in (0, len(raw) // 2))
    fitting = [
        group
        for group in groups
        if group["type"] == "int" and words.shape == (out, -(-width * group["num_bits"] // WORD)) and width > 0
    ]
    if not fitting:
        raise layer.error(f"{out} x {width} numbers in {words.shape} words; expected the num_bits of config_groups")
    bits = fitting[0]["num_bits"]
    half = 2.0 ** (bits - 1)
    scale = layer.floats("weight_scale")
    if scale.shape[:1] not in ((out,), (1,)) or len(scale.shape) > 2:
        raise layer.error(f"weight_scale is {scale.shape}; expected {out} rows of scales, or one")
    count = scale.shape[-1]
    if width % count:
        raise layer.error(f"weight_scale has {count} groups; expected a divisor of {width}, the inputs")
    zero = layer.part(ZERO, ("I32",), (-(-out * bits // WORD), count)) if ZERO in layer.parts else None
    require_zeros(layer, fitting)
    if "weight_g_idx" in layer.parts:
        layer.part("weight_g_idx", ("I32", "I64"), (width,))

    def rows(start: int, stop: int) -> Tensor:
        x = codes_in(words.read()[start:stop], bits)[:, :width].float()
        zeros = half if zero is None else codes_in(zero.read().T, bits).T[start:stop].float()
        scales = scale.read().float().reshape(-1, count).expand(out, -1)[start:stop]
        return by_groups(x, zeros, scales, order_of(layer, "weight_g_idx", width, count))

    return layer.matrix(f"INT{bits}", (out, width), rows)


def in_bytes(layer: PackedLayer, groups: list[Mapping[str, Any]]) -> Stored:
    """Bytes, of whole numbers or floats, and their scales."""
    kinds = {"int": ("I8",), "float": KINDS}
    weight = layer.part("weight", ("I8", *KINDS), (0, 0))
    fitting = [group for group in groups if weight.kind in kinds[group["type"]] and group["num_bits"] == 8]
    if not fitting:
        raise layer.error(f"weight is {weight.kind}, and no group of config_groups has such weights")
    blocks = [tuple(group["block_structure"]) if group["strategy"] == "block" else None for group in fitting]
    require_zeros(layer, fitting)
    return scaled(layer, "weight_scale", blocks, (weight.kind,))


def require_zeros(layer: PackedLayer, groups: list[Mapping[str, Any]]) -> None:
    if ZERO not in layer.parts and all(group.get("symmetric") is False for group in groups):
        raise layer.error(f"{ZERO} is missing; expected it, as symmetric is false")


METHOD = Method(
    title="compressed-tensors",
    marks=("weight_packed", "weight_scale"),
    parts=(
        "weight", "weight_shape", "weight_zero_point", "weight_g_idx", "input_scale", "output_scale",
        "input_zero_point", "output_zero_point",
    ),
    unpack=unpack,
    allowed={
        "format": FORMATS,
        "quantization_status": ("compressed", "frozen", "initialized", "calibration", None),
        "sparsity_config": (None, {}, "dense"),
        "transform_config": (None, {}),
        "moe_sparsity_config": (None, {}),
        "run_compressed": (True, False, None),
    },
    known=names("config_groups ignore kv_cache_scheme global_compression_ratio version"),
    skipped=FP8.skipped,
)  # fmt: skip
