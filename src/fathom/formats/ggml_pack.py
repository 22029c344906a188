"""Numbers packed into blocks, as ggml's reference packs them (ggml-quants.c, quantize_row_*_ref), bit for bit.

A group whose scale is 0 in the file keeps the codes of the search. What fp16 cannot hold as a scale is refused.
"""

from typing import Any

import numpy as np

from fathom.errors import FathomError
from fathom.formats.ggml_layouts import Q4_0, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, Array
from fathom.formats.ggml_search import TINY, scales, scales_and_offsets

f32 = np.float32


def pack_q8_0(x: Array) -> Array:  # (n, 32) -> (n,)
    scale = np.abs(x).max(axis=1, keepdims=True) / 127
    q = x * _inverse(scale)
    whole = np.trunc(q)
    return _block(Q8_0, scale, q=(whole + np.trunc(2 * (q - whole))).astype(np.int8))  # halves away from zero


def pack_q4_0(x: Array) -> Array:  # (n, 32) -> (n,)
    """The number farthest from zero becomes -8, whatever its sign."""
    scale, q = _from_farthest(x, 8)
    return _block(Q4_0, scale, low=_low(q))


def pack_q5_0(x: Array) -> Array:  # (n, 32) -> (n,)
    """The number farthest from zero becomes -16, whatever its sign."""
    scale, q = _from_farthest(x, 16)
    return _block(Q5_0, scale, low=_low(q), high=_fifth(q))


def pack_q5_1(x: Array) -> Array:  # (n, 32) -> (n,)
    low, high = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    scale = (high - low) / f32(31)
    q = ((x - low) * _inverse(scale) + f32(0.5)).astype(np.uint8)
    return _block(Q5_1, scale, offset=low[:, 0], low=_low(q), high=_fifth(q))


def pack_q4_k(x: Array) -> Array:  # (n, 256) -> (n,)
    fields, q = _with_offsets(x, 15, -1.0, 20)
    return _block(Q4_K, **fields, low=_halves(q))


def pack_q5_k(x: Array) -> Array:  # (n, 256) -> (n,)
    fields, q = _with_offsets(x, 31, -0.5, 15)
    high = np.bitwise_or.reduce(q >> 4 << np.arange(8, dtype=np.uint8)[:, None], axis=1)
    return _block(Q5_K, **fields, low=_halves(q), high=high)


def pack_q6_k(x: Array) -> Array:  # (n, 256) -> (n,)
    """The scale farthest from zero becomes -128."""
    each, found = scales(_columns(x, 16), 32)
    each = each.reshape(-1, 16)
    farthest = np.take_along_axis(each, np.abs(each).argmax(axis=1, keepdims=True), axis=1)
    inverse = f32(-128) / farthest
    empty = np.abs(farthest) < TINY
    scale = np.where(empty, f32(0), 1 / inverse)
    six = np.where(empty, f32(0), np.fmin(np.rint(inverse * each), 127)).astype(np.int8)
    step = (_half(scale) * six)[:, :, None]
    q = np.where(step == 0, found.T.reshape(-1, 16, 16), np.clip(np.rint(x.reshape(-1, 16, 16) / step), -32, 31))
    q = np.where(empty, 0, q.reshape(-1, 256) + 32).astype(np.uint8).reshape(-1, 2, 4, 32)
    low = np.concatenate((q[:, :, 0] & 15 | (q[:, :, 2] & 15) << 4, q[:, :, 1] & 15 | (q[:, :, 3] & 15) << 4), axis=2)
    high = np.bitwise_or.reduce(q >> 4 << np.array([0, 2, 4, 6], np.uint8)[:, None], axis=2)
    return _block(Q6_K, scale, low=low, high=high, scales=six)


def _with_offsets(x: Array, most: int, first: float, tries: int) -> tuple[dict[str, Array], Array]:
    """The fields of 256 numbers with scales and offsets of 6 bits, and q (n, 8, 32) from 0 to `most`."""
    *pair, found = scales_and_offsets(_columns(x, 32), most, first, tries)
    pair = [y.reshape(-1, 8) for y in pair]
    largest = [np.maximum(y.max(axis=1, keepdims=True), f32(0)) for y in pair]
    six = [np.fmin(np.rint(63 / top * y), 63).astype(np.uint8) for y, top in zip(pair, largest)]
    six = [np.where(top > 0, y, np.uint8(0)) for y, top in zip(six, largest)]
    scale, offset = (top / f32(63) for top in largest)
    step, low = ((_half(whole) * y)[:, :, None] for whole, y in zip((scale, offset), six))
    q = np.clip(np.rint((x.reshape(-1, 8, 32) + low) / step), 0, most)
    q = np.where(step == 0, found.T.reshape(-1, 8, 32), q).astype(np.uint8)
    upper = [y[:, :4] | y[:, 4:] >> 4 << 6 for y in six]
    both = six[0][:, 4:] & 15 | (six[1][:, 4:] & 15) << 4
    return {"scale": scale, "offset": offset[:, 0], "six": np.concatenate((*upper, both), axis=1)}, q


def _columns(x: Array, size: int) -> Array:
    """Groups of `size` numbers as columns."""
    return np.ascontiguousarray(x.reshape(-1, size).T)


def _from_farthest(x: Array, most: int) -> tuple[Array, Array]:
    """The scale that makes the number farthest from zero -most, and q + most of all numbers."""
    farthest = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)
    scale = farthest / -most
    return scale, (x * _inverse(scale) + f32(most + 0.5)).astype(np.uint8).clip(0, 2 * most - 1)


def _low(q: Array) -> Array:
    """The low 4 bits of 32 numbers in 16 bytes."""
    return q[:, :16] & 15 | (q[:, 16:] & 15) << 4


def _fifth(q: Array) -> Array:
    """The fifth bit of number i as bit i."""
    return np.bitwise_or.reduce((q >> 4).astype(np.uint32) << np.arange(32, dtype=np.uint32), axis=1)


def _halves(q: Array) -> Array:  # (n, 8, 32) -> (n, 4, 32)
    """The low 4 bits of two groups in 32 bytes."""
    return q[:, ::2] & 15 | (q[:, 1::2] & 15) << 4


def _half(x: Array) -> Array:
    """Rounded to fp16, as the file holds it."""
    return x.astype(np.float16).astype(np.float32)


def _inverse(scale: Array) -> Array:
    return np.where(scale == 0, f32(0), 1 / scale)


def _block(layout: np.dtype[Any], scale: Array, **fields: Array) -> Array:
    blocks = np.empty(len(scale), layout)
    blocks["scale"] = scale[:, 0]
    for name, values in fields.items():
        blocks[name] = values
    if not all(np.isfinite(blocks[name]).all() for name in ("scale", "offset") if name in fields or name == "scale"):
        raise FathomError("it holds numbers that are too large or not finite; expected finite ones")
    return blocks
