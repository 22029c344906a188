"""The number types of GGUF files: blocks of numbers unpacked from bytes, and the table of what each type can.

A block of weights shares one or two scales, and each weight is a small whole number of them. The bytes are those of
ggml (ggml-common.h) and the arithmetic that of its reference (gguf-py, quants.py), bit for bit, in slices, so that a
tensor of any size takes little memory besides the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fathom.errors import FathomError
from fathom.formats import ggml_layouts as layouts
from fathom.formats import ggml_pack as pack
from fathom.formats.ggml_layouts import E2M1, NONLINEAR, Array
from fathom.formats.opened import CHUNK

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from fathom.lazy import torch


SLICE = CHUNK // 4  # numbers of fp32


def _f32(x: Array) -> Array:
    return x.astype(np.float32)


def _shifted(x: Array, shifts: list[int]) -> Array:
    """(n, g, bytes) -> (n, g, shifts, bytes): all bytes moved right by the first shift, then by the second ..."""
    return x[:, :, None] >> np.array(shifts, x.dtype)[:, None]


def nibbles(low: Array) -> Array:
    """(n, g, bytes) -> (n, g, 2, bytes): of each group of bytes all low halves, then all high ones."""
    return _shifted(low, [0, 4]) & 15


def _unpack_q8_0(b: Array) -> Array:
    return _f32(b["q"]) * _f32(b["scale"])[:, None]


def _unpack_q4_0(b: Array) -> Array:
    return _f32(b["scale"])[:, None] * (_f32(_four(b)) - 8)


def _unpack_q4_1(b: Array) -> Array:
    return _f32(b["scale"])[:, None] * _f32(_four(b)) + _f32(b["offset"])[:, None]


def _unpack_q5_0(b: Array) -> Array:
    return _f32(b["scale"])[:, None] * (_f32(five(b)) - 16)


def _unpack_q5_1(b: Array) -> Array:
    return _f32(b["scale"])[:, None] * _f32(five(b)) + _f32(b["offset"])[:, None]


def _four(b: Array) -> Array:
    return nibbles(b["low"][:, None]).reshape(-1, 32)


def five(b: Array) -> Array:
    fifth = (b["high"][:, None] >> np.arange(32, dtype=np.uint32) & 1).astype(np.uint8)  # (n, 32)
    return _four(b) | fifth << 4


def _scales_and_offsets(b: Array) -> tuple[Array, Array]:
    """Of the 8 groups, (n, 8, 1) each."""
    scales, offsets = six_bits(b)
    whole = (_f32(b["scale"])[:, None] * _f32(scales), _f32(b["offset"])[:, None] * _f32(offsets))
    return whole[0][:, :, None], whole[1][:, :, None]


def six_bits(b: Array) -> tuple[Array, Array]:
    """The whole numbers that 8 groups have as scales and as offsets, (n, 8) each."""
    scales, offsets, both = np.split(b["six"], 3, axis=1)  # (n, 4) each
    scales = np.concatenate((scales & 63, both & 15 | scales >> 6 << 4), axis=1)  # (n, 8)
    return scales, np.concatenate((offsets & 63, both >> 4 | offsets >> 6 << 4), axis=1)


def _unpack_q4_k(b: Array) -> Array:
    scale, offset = _scales_and_offsets(b)
    return scale * _f32(codes_q4_k(b)) - offset


def codes_q4_k(b: Array) -> Array:  # -> (n, 8, 32)
    return nibbles(b["low"]).reshape(-1, 8, 32)


def _unpack_q5_k(b: Array) -> Array:
    scale, offset = _scales_and_offsets(b)
    return scale * _f32(codes_q5_k(b)) - offset


def codes_q5_k(b: Array) -> Array:  # -> (n, 8, 32)
    return codes_q4_k(b) | _bits(b["high"]) << 4


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
    six = nibbles(lower).reshape(-1, 16) | (_shifted(upper, [0, 2, 4, 6]) & 3).reshape(-1, 16) << 4
    scale = _f32(b["scale"])[:, None] * (_f32(six) - 32)
    q = _f32(_two_bits(b)) - 4 * _f32(1 - _bits(b["high"])).reshape(-1, 16, 16)
    return scale[:, :, None] * q


def _unpack_iq4_nl(b: Array) -> Array:
    return _f32(b["scale"])[:, None] * NONLINEAR[_four(b)]


def _unpack_iq4_xs(b: Array) -> Array:
    lower = (b["lower"][:, :, None] >> np.array([0, 4], np.uint8) & 15).reshape(-1, 8)
    upper = b["upper"][:, None] >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    scale = _f32(b["scale"])[:, None] * (_f32(lower | upper << 4) - 32)  # (n, 8)
    return scale[:, :, None] * NONLINEAR[nibbles(b["low"]).reshape(-1, 8, 32)]


def _unpack_mxfp4(b: Array) -> Array:
    scale = np.ldexp(np.float32(1), b["exponent"].astype(np.int32) - 128)
    return scale[:, None] * E2M1[_four(b)]


def _unpack_q8_k(b: Array) -> Array:
    return b["scale"][:, None] * _f32(b["q"])


def _unpack_q6_k(b: Array) -> Array:
    scale = _f32(b["scale"])[:, None] * _f32(b["scales"])
    return scale[:, :, None] * (_f32(codes_q6_k(b)).reshape(-1, 16, 16) - 32)


def codes_q6_k(b: Array) -> Array:  # -> (n, 8, 32)
    low = nibbles(b["low"]).reshape(-1, 2, 4, 32)
    high = _shifted(b["high"], [0, 2, 4, 6]) & 3
    return (low | high << 4).reshape(-1, 8, 32)


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
    8: NumberType("Q8_0", 32, layouts.Q8_0, unpack=_unpack_q8_0, pack=pack.pack_q8_0),
    2: NumberType("Q4_0", 32, layouts.Q4_0, unpack=_unpack_q4_0, pack=pack.pack_q4_0),
    3: NumberType("Q4_1", 32, layouts.Q4_1, unpack=_unpack_q4_1),
    6: NumberType("Q5_0", 32, layouts.Q5_0, unpack=_unpack_q5_0, pack=pack.pack_q5_0),
    7: NumberType("Q5_1", 32, layouts.Q5_1, unpack=_unpack_q5_1, pack=pack.pack_q5_1),
    9: NumberType("Q8_1", 32, layouts.Q8_1, unpack=_unpack_q8_0),
    12: NumberType("Q4_K", 256, layouts.Q4_K, unpack=_unpack_q4_k, pack=pack.pack_q4_k),
    13: NumberType("Q5_K", 256, layouts.Q5_K, unpack=_unpack_q5_k, pack=pack.pack_q5_k),
    14: NumberType("Q6_K", 256, layouts.Q6_K, unpack=_unpack_q6_k, pack=pack.pack_q6_k),
    11: NumberType("Q3_K", 256, layouts.Q3_K, unpack=_unpack_q3_k),
    10: NumberType("Q2_K", 256, layouts.Q2_K, unpack=_unpack_q2_k),
    15: NumberType("Q8_K", 256, layouts.Q8_K, unpack=_unpack_q8_k),
    20: NumberType("IQ4_NL", 32, layouts.IQ4_NL, unpack=_unpack_iq4_nl),
    23: NumberType("IQ4_XS", 256, layouts.IQ4_XS, unpack=_unpack_iq4_xs),
    39: NumberType("MXFP4", 32, layouts.MXFP4, unpack=_unpack_mxfp4),
}
OTHERS = {
    16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S", 24: "I8",
    25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip
IDS = {kind.name: id for id, kind in TYPES.items()}


def number_type(id: int) -> NumberType:
    """The type with this number in files. FathomError names an unsupported one, and those that are supported."""
    if id not in TYPES:
        raise FathomError(
            f"its numbers are of type {OTHERS.get(id, id)}; expected one of {', '.join(IDS)}; convert it to one of them"
        )
    return TYPES[id]


def unpacked(data: Tensor, kind: NumberType) -> Tensor:
    """All numbers of a tensor of blocks as one row of fp32, from its bytes (uint8)."""
    if (numbers_of := kind.unpack) is None:
        raise FathomError(f"{kind.name} is not packed; its numbers are used as they are")
    blocks, step = data.numpy().view(kind.layout), SLICE // kind.size
    numbers = np.empty((len(blocks), kind.size), np.float32)

    def unpack(part: slice) -> None:
        with np.errstate(all="ignore"):  # scales may be infinite
            numbers[part] = numbers_of(blocks[part]).reshape(-1, kind.size)

    in_slices(unpack, len(blocks), step)
    return torch.from_numpy(numbers.reshape(-1))


def in_slices(work: Callable[[slice], None], count: int, step: int) -> None:
    """Call `work` with every `step` of `count` items, in all threads: numpy works outside of Python's lock."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(work, (slice(start, start + step) for start in range(0, count, step))))


def packed(numbers: Tensor, kind: NumberType) -> Iterator[Array]:
    """The bytes of a tensor as `kind`, in slices. FathomError where its numbers are out of range."""
    flat = numbers.detach().reshape(-1)
    if kind.pack is None:
        yield from (converted(part.cpu(), kind) for part in flat.split(SLICE))
        return
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # numpy works outside of Python's lock
        yield from pool.map(lambda part: in_blocks(part, kind), flat.split(SLICE))


def in_blocks(part: Tensor, kind: NumberType) -> Array:
    assert kind.pack is not None
    with np.errstate(all="ignore"):  # refused afterwards
        return kind.pack(part.cpu().float().reshape(-1, kind.size).numpy()).view(np.uint8)


def converted(part: Tensor, kind: NumberType) -> Array:
    result = part.to(getattr(torch, kind.dtype))
    if (result.isinf() & part.isfinite()).any():
        raise FathomError(f"it holds {part.abs().max():.4g}, which is more than {kind.name} can; choose BF16 or F32")
    return result.contiguous().view(torch.uint8).numpy()
