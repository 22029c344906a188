"""Weights in 8-bit floats with scales: one for the tensor, for each row, or for each block (DeepSeek-AI 2024, 3.3).

W = q * s, under the names of DeepSeek and transformers (`weight_scale_inv`, which multiplies all the same) and of vLLM
(`weight_scale`). Scales of activations are not used: activations stay floats here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fathom.formats.opened import Stored
from fathom.formats.packed_layer import Method, PackedLayer, Settings, names

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from fathom.lazy import torch


KINDS = ("F8_E4M3", "F8_E5M2")
SCALES = ("F32", "BF16", "F16", "F8_E8M0")
BLOCKED, ZERO = "weight_scale_inv", "weight_zero_point"
Block = tuple[int, int]  # rows and columns


def unpack(layer: PackedLayer, settings: Settings) -> Stored:
    """The matrix of a layer, its scales by their shape."""
    suffix = BLOCKED if BLOCKED in layer.parts else "weight_scale"
    block = settings.entries.get("weight_block_size", [128, 128])
    if block is None:
        return scaled(layer, suffix, [None], KINDS)
    if not is_block(block):
        raise settings.error("weight_block_size", "two sizes or null")
    whole = [] if "weight_block_size" in settings.entries else [None]
    return scaled(layer, suffix, [*whole, (block[0], block[1])], KINDS)  # type: ignore[index]


def is_block(block: object) -> bool:
    """Whether this is the height and width of a block."""
    return isinstance(block, list) and len(block) == 2 and all(type(n) is int and 0 < n < 1 << 31 for n in block)


def scaled(layer: PackedLayer, suffix: str, blocks: Sequence[Block | None], kinds: tuple[str, ...]) -> Stored:
    """(q - zero) * s, for scales of the first of these blocks that fits; None: of the tensor, rows or their groups."""
    weight, scale = layer.part("weight", kinds, (0, 0)), layer.part(suffix, SCALES)
    zero = layer.part(ZERO, ("I8",), scale.shape) if ZERO in layer.parts and weight.kind == "I8" else None
    out, width = weight.shape
    fitting = [size for block in blocks if (size := grid((out, width), scale.shape, block)) is not None]
    if not fitting:
        expected = " or ".join("one, or one for each row" if b is None else f"one for {b[0]} x {b[1]}" for b in blocks)
        raise layer.error(f"{suffix} is {scale.shape} for {out} x {width} weights; expected {expected}")
    high, wide = fitting[0]

    def rows(start: int, stop: int) -> Tensor:
        x = weight.rows(start, stop).float()
        if zero is not None:
            x -= spread(zero.read().float(), high, wide, range(start, stop), width)
        x *= spread(scale.read().float(), high, wide, range(start, stop), width)
        return x

    return layer.matrix("INT8" if weight.kind == "I8" else weight.kind, (out, width), rows)


def grid(shape: tuple[int, int], scales: tuple[int, ...], block: Block | None) -> Block | None:
    """The size of the part of a matrix that shares a scale; None where there are more scales or fewer."""
    out, width = shape
    if block is not None:
        wanted = -(-out // block[0]), -(-width // block[1])
        return block if scales == wanted or (wanted == (1, 1) and scales in ((), (1,))) else None
    if scales in ((), (1,), (1, 1)):
        return shape
    if scales == (out,):
        return 1, width
    groups = scales[1] if len(scales) == 2 and scales[0] == out else 0
    return (1, width // groups) if groups and width % groups == 0 else None


def spread(scale: Tensor, high: int, wide: int, rows: range, width: int) -> Tensor:
    """The scale of each number in some rows: (n, width), or what broadcasts to it."""
    scale = scale.reshape(1, 1) if scale.numel() == 1 else scale.reshape(len(scale), -1)
    if scale.numel() == 1:
        return scale
    scale = scale[torch.arange(rows.start, rows.stop) // high]
    return scale if scale.shape[1] == 1 else scale.repeat_interleave(wide, 1)[:, :width]


FP8 = Method(
    title="fp8",
    marks=(BLOCKED, "weight_scale"),
    parts=("weight", "activation_scale", "input_scale", "output_scale", "input_scale_ub"),
    unpack=unpack,
    allowed={
        "fmt": ("e4m3", "float8_e4m3fn", None),
        "scale_fmt": ("float", "ue8m0", None),
        "expert_dtype": ("fp8", None),
        "modules_to_convert": (None, []),
        "use_per_tensor": (None, False, True),
    },
    known=names(
        "activation_scheme activation_scale_ub modules_to_not_convert ignored_layers ignore kv_cache_scheme"
        " weight_block_size dequantize"
    ),
    skipped=r".*\.(k_scale|v_scale|q_scale|kv_scale|prob_scale|(q|k|v)_proj\.output_scale)",
)
