"""The number types of GGUF files: a block of numbers unpacked from bytes, and packed into them.

A block of weights shares one or two scales, and each weight is a small whole number of them. The bytes are those of
ggml (ggml-common.h) and the arithmetic that of its reference (gguf-py, quants.py), bit for bit, in slices, so that a
tensor of any size takes little memory besides the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fathom.errors import FathomError
from fathom.formats.opened import CHUNK
from fathom.quant.scheme import Packed

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from fathom.lazy import torch


Array: TypeAlias = NDArray[Any]

# A block in memory, field after field. `scale` and `offset` are fp16: a weight is scale * q, or scale * q + offset.
# 16 bytes `low` hold 32 numbers of 4 bits: the low halves are numbers 0 to 15, the high halves 16 to 31.
LOW = ("low", "u1", 16)
Q8_0 = np.dtype([("scale", "<f2"), ("q", "i1", 32)])
Q4_0 = np.dtype([("scale", "<f2"), LOW])  # q = low - 8
Q4_1 = np.dtype([("scale", "<f2"), ("offset", "<f2"), LOW])
Q5_0 = np.dtype([("scale", "<f2"), ("high", "<u4"), LOW])  # bit i of high is the fifth bit of number i; q = that - 16
Q5_1 = np.dtype([("scale", "<f2"), ("offset", "<f2"), ("high", "<u4"), LOW])
# 256 numbers in 8 groups of 32; each group has a scale and an offset of 6 bits, which count in `scale` and `offset`.
# Bytes of `six`: 0-3 scales of groups 0-3, 4-7 their offsets (6 bits each), 8-11 the low 4 bits of the scale (low half)
# and offset (high half) of groups 4-7, whose upper 2 bits are the upper bits of bytes 0-3 and 4-7.
Q4_K = np.dtype([("scale", "<f2"), ("offset", "<f2"), ("six", "u1", 12), ("low", "u1", (4, 32))])
# The same with a fifth bit of each number: bit g of byte i of `high` belongs to number i of group g.
Q5_K = np.dtype([("scale", "<f2"), ("offset", "<f2"), ("six", "u1", 12), ("high", "u1", 32), ("low", "u1", (4, 32))])
# 256 numbers of 6 bits in 16 groups of 16; per 128 numbers 64 bytes with the low 4 bits and 32 with the upper 2.
Q6_K = np.dtype([("low", "u1", (2, 64)), ("high", "u1", (2, 32)), ("scales", "i1", 16), ("scale", "<f2")])
# 256 numbers of 2 bits in 16 groups of 16; a byte of `scales` is a group's scale (low half) and offset (high half), and
# 32 bytes of `two` hold 128 numbers: their lowest 2 bits the first 32, the next 2 bits the next 32 ...
Q2_K = np.dtype([("scales", "u1", 16), ("two", "u1", (2, 32)), ("scale", "<f2"), ("offset", "<f2")])
# The same with a third bit: bit g of byte i of `high`, of number i of 32 in group g; where it is 0, 4 is subtracted.
# The scales of 6 bits, minus 32: 8 bytes of low 4 bits (scales 0-7, then 8-15), 4 of upper 2 bits, four to a byte.
Q3_K = np.dtype([("high", "u1", 32), ("two", "u1", (2, 32)), ("six", "u1", 12), ("scale", "<f2")])
# 4 bits choose one of 16 values that lie closer together around 0.
IQ4_NL = np.dtype([("scale", "<f2"), LOW])
IQ4_XS = np.dtype([("scale", "<f2"), ("upper", "<u2"), ("lower", "u1", 4), ("low", "u1", (8, 16))])
# The scale is a power of two, 2^(exponent - 128), and 4 bits are twice a floating-point number (OCP MX, E2M1).
MXFP4 = np.dtype([("exponent", "u1"), LOW])
NONLINEAR = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)

SLICE = CHUNK // 4  # numbers of fp32


def _f32(x: Array) -> Array:
    return x.astype(np.float32)


def _shifted(x: Array, shifts: list[int]) -> Array:
    """(n, g, bytes) -> (n, g, shifts, bytes): all bytes moved right by the first shift, then by the second ..."""
    return x[:, :, None] >> np.array(shifts, x.dtype)[:, None]


def _nibbles(low: Array) -> Array:
    """(n, g, bytes) -> (n, g, 2, bytes): of each group of bytes all low halves, then all high ones."""
    return _shifted(low, [0, 4]) & 15


def _unpack_q8_0(b: Array) -> Array:
    return _f32(b["q"]) * _f32(b["scale"])[:, None]


def _unpack_q4_0(b: Array) -> Array:
    return _f32(b["scale"])[:, None] * (_f32(_four(b)) - 8)


def _unpack_q4_1(b: Array) -> Array:
    return _f32(b["scale"])[:, None] * _f32(_four(b)) + _f32(b["offset"])[:, None]


def _unpack_q5_0(b: Array) -> Array:
    return _f32(b["scale"])[:, None] * (_f32(_five(b)) - 16)


def _unpack_q5_1(b: Array) -> Array:
    return _f32(b["scale"])[:, None] * _f32(_five(b)) + _f32(b["offset"])[:, None]


def _four(b: Array) -> Array:
    return _nibbles(b["low"][:, None]).reshape(-1, 32)


def _five(b: Array) -> Array:
    fifth = (b["high"][:, None] >> np.arange(32, dtype=np.uint32) & 1).astype(np.uint8)  # (n, 32)
    return _four(b) | fifth << 4


def _six_bits(b: Array) -> tuple[Array, Array]:
    """Scales and offsets of the 8 groups, (n, 8, 1) each."""
    scales, offsets, both = np.split(b["six"], 3, axis=1)  # (n, 4) each
    scales = np.concatenate((scales & 63, both & 15 | scales >> 6 << 4), axis=1)  # (n, 8)
    offsets = np.concatenate((offsets & 63, both >> 4 | offsets >> 6 << 4), axis=1)
    whole = (_f32(b["scale"])[:, None] * _f32(scales), _f32(b["offset"])[:, None] * _f32(offsets))
    return whole[0][:, :, None], whole[1][:, :, None]


def _unpack_q4_k(b: Array) -> Array:
    scale, offset = _six_bits(b)
    return scale * _f32(_nibbles(b["low"])).reshape(-1, 8, 32) - offset


def _unpack_q5_k(b: Array) -> Array:
    scale, offset = _six_bits(b)
    q = _nibbles(b["low"]).reshape(-1, 8, 32) | _bits(b["high"]) << 4
    return scale * _f32(q) - offset


def _bits(high: Array) -> Array:
    """(n, 32) -> (n, 8, 32): the lowest bit of all bytes, then the next ..."""
    return high[:, None] >> np.arange(8, dtype=np.uint8)[:, None] & 1


def _unpack_q2_k(b: Array) -> Array:
    scale = _f32(b["scale"])[:, None] * _f32(b["scales"] & 15)  # (n, 16)
    offset = _f32(b["offset"])[:, None] * _f32(b["scales"] >> 4)
    return scale[:, :, None] * _f32(_two_bits(b)) - offset[:, :, None]


def _two_bits(b: Array) -> Array:  # -> (n, 16, 16)
    return (_shifted(b["two"], [0, 2, 4, 6]) & 3).reshape(-1, 16, 16)


def _unpack_q3_k(b: Array) -> Array:
    lower, upper = b["six"][:, None, :8], b["six"][:, None, 8:]
    six = _nibbles(lower).reshape(-1, 16) | (_shifted(upper, [0, 2, 4, 6]) & 3).reshape(-1, 16) << 4
    scale = _f32(b["scale"])[:, None] * (_f32(six) - 32)
    q = _f32(_two_bits(b)) - 4 * _f32(1 - _bits(b["high"])).reshape(-1, 16, 16)
    return scale[:, :, None] * q


def _unpack_iq4_nl(b: Array) -> Array:
    return _f32(b["scale"])[:, None] * NONLINEAR[_four(b)]


def _unpack_iq4_xs(b: Array) -> Array:
    lower = (b["lower"][:, :, None] >> np.array([0, 4], np.uint8) & 15).reshape(-1, 8)
    upper = b["upper"][:, None] >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    scale = _f32(b["scale"])[:, None] * (_f32(lower | upper << 4) - 32)  # (n, 8)
    return scale[:, :, None] * NONLINEAR[_nibbles(b["low"]).reshape(-1, 8, 32)]


def _unpack_mxfp4(b: Array) -> Array:
    scale = np.ldexp(np.float32(1), b["exponent"].astype(np.int32) - 128)
    return scale[:, None] * E2M1[_four(b)]


def _unpack_q6_k(b: Array) -> Array:
    low = _nibbles(b["low"]).reshape(-1, 2, 4, 32)
    high = _shifted(b["high"], [0, 2, 4, 6]) & 3
    q = _f32(low | high << 4).reshape(-1, 16, 16) - 32
    scale = _f32(b["scale"])[:, None] * _f32(b["scales"])
    return scale[:, :, None] * q


def _pack_q8_0(x: Array) -> Array:  # (n, 32) -> (n,)
    scale = np.abs(x).max(axis=1, keepdims=True) / 127
    q = x * _inverse(scale)
    whole = np.trunc(q)
    return _block(Q8_0, scale, q=(whole + np.trunc(2 * (q - whole))).astype(np.int8))  # halves away from zero


def _pack_q4_0(x: Array) -> Array:  # (n, 32) -> (n,)
    """The number farthest from zero becomes -8, whatever its sign."""
    farthest = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)
    scale = farthest / -8
    q = (x * _inverse(scale) + np.float32(8.5)).astype(np.uint8).clip(0, 15)
    return _block(Q4_0, scale, low=q[:, :16] | q[:, 16:] << 4)


def _inverse(scale: Array) -> Array:
    return np.where(scale == 0, np.float32(0), 1 / scale)


def _block(layout: np.dtype[Any], scale: Array, **fields: Array) -> Array:
    blocks = np.empty(len(scale), layout)
    blocks["scale"] = scale[:, 0]
    if not np.isfinite(blocks["scale"]).all():
        raise FathomError("it holds numbers that are too large or not finite; expected finite ones")
    for name, values in fields.items():
        blocks[name] = values
    return blocks


@dataclass(frozen=True)
class NumberType:
    """One type of GGUF. Floats are used as they are in the file; the others are unpacked, and some can be packed."""

    name: str
    size: int  # numbers in a block
    layout: np.dtype[Any]  # of a block
    dtype: str = "float32"  # of its numbers when read
    unpack: Callable[[Array], Array] | None = None
    pack: Callable[[Array], Array] | None = None

    @property
    def nbytes(self) -> int:
        """Of a block."""
        return self.layout.itemsize


TYPES = {  # by their number in files
    0: NumberType("F32", 1, np.dtype("<f4"), "float32"),
    1: NumberType("F16", 1, np.dtype("<f2"), "float16"),
    30: NumberType("BF16", 1, np.dtype("<u2"), "bfloat16"),
    8: NumberType("Q8_0", 32, Q8_0, unpack=_unpack_q8_0, pack=_pack_q8_0),
    2: NumberType("Q4_0", 32, Q4_0, unpack=_unpack_q4_0, pack=_pack_q4_0),
    3: NumberType("Q4_1", 32, Q4_1, unpack=_unpack_q4_1),
    6: NumberType("Q5_0", 32, Q5_0, unpack=_unpack_q5_0),
    7: NumberType("Q5_1", 32, Q5_1, unpack=_unpack_q5_1),
    12: NumberType("Q4_K", 256, Q4_K, unpack=_unpack_q4_k),
    13: NumberType("Q5_K", 256, Q5_K, unpack=_unpack_q5_k),
    14: NumberType("Q6_K", 256, Q6_K, unpack=_unpack_q6_k),
    11: NumberType("Q3_K", 256, Q3_K, unpack=_unpack_q3_k),
    10: NumberType("Q2_K", 256, Q2_K, unpack=_unpack_q2_k),
    20: NumberType("IQ4_NL", 32, IQ4_NL, unpack=_unpack_iq4_nl),
    23: NumberType("IQ4_XS", 256, IQ4_XS, unpack=_unpack_iq4_xs),
    39: NumberType("MXFP4", 32, MXFP4, unpack=_unpack_mxfp4),
}
OTHERS = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S", 24: "I8",
    25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip
IDS = {kind.name: id for id, kind in TYPES.items()}
SCHEMES = {"Q8_0": "int8", "Q4_0": "int4"}  # the same numbers in fathom/quant, which stores codes and scales separately


def number_type(id: int) -> NumberType:
    """The type with this number in files. FathomError names an unsupported one, and those that are supported."""
    if id not in TYPES:
        raise FathomError(
            f"its numbers are of type {OTHERS.get(id, id)}; expected one of {', '.join(IDS)}; convert it to one of them"
        )
    return TYPES[id]


def unpacked(data: Tensor, kind: NumberType) -> Tensor:
    """All numbers of a tensor of blocks as one row of fp32, from its bytes (uint8)."""
    if kind.unpack is None:
        raise FathomError(f"{kind.name} is not packed; its numbers are used as they are")
    blocks, step = data.numpy().view(kind.layout), SLICE // kind.size
    numbers = np.empty(len(blocks) * kind.size, np.float32)
    with np.errstate(all="ignore"):  # scales may be infinite
        for start in range(0, len(blocks), step):
            part = kind.unpack(blocks[start : start + step]).reshape(-1)
            numbers[start * kind.size :][: len(part)] = part
    return torch.from_numpy(numbers)


def fields(data: Tensor, kind: NumberType, rows: int) -> Packed | None:
    """Codes and scales of a matrix in Q8_0 or Q4_0, as in int8 or int4, from its bytes (uint8).

    None where packing never gives them: a scale that is not finite, or -128 in 8 bits.
    """
    scale, codes = (np.ascontiguousarray(data.numpy().view(kind.layout)[name]) for name in kind.layout.names or ())
    if not np.isfinite(scale).all() or (codes.dtype == np.int8 and codes.min(initial=0) == -128):
        return None
    both = {"codes": torch.from_numpy(codes), "scales": torch.from_numpy(scale)}
    return {name: x.view(rows, -1, *x.shape[1:]) for name, x in both.items()}


def packed(numbers: Tensor, kind: NumberType) -> Iterator[Array]:
    """The bytes of a tensor as `kind`, in slices. FathomError where its numbers are out of range."""
    for part in numbers.detach().reshape(-1).split(SLICE):
        part = part.cpu()
        if kind.pack is not None:
            with np.errstate(all="ignore"):  # refused afterwards
                blocks = kind.pack(part.float().reshape(-1, kind.size).numpy())
            yield blocks.view(np.uint8)
            continue
        converted = part.to(getattr(torch, kind.dtype))
        if (converted.isinf() & part.isfinite()).any():
            raise FathomError(
                f"it holds {part.abs().max():.4g}, which is more than {kind.name} can; choose BF16 or F32"
            )
        yield converted.contiguous().view(torch.uint8).numpy()
