"""Scales for groups of numbers: the searches by which ggml's reference quantises (ggml-quants.c), to the bit.

A group becomes scale * q, or scale * q - offset, with whole q. The q that rounding gives depend on the scale, and the
best scale on the q: a search tries several scales, fits scale and offset by least squares to the q of each, and keeps
the fit of the least weighted error. Groups are columns (numbers, groups): one operation advances all of them, and sums
run down the rows one after another, in the order and so with the rounding of the reference.
"""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

f32 = np.float32
TINY = np.float32(1e-15)  # a group of numbers below this is all zeros


def scales_and_offsets(x: Array, most: int, first: float, tries: int) -> tuple[Array, Array, Array]:
    """x (numbers, groups) -> scale and offset >= 0 of each group, and q from 0 to `most` (make_qkx2_quants).

    Numbers weigh as much as they are large: w = |x| + rms(x). Tried are scales of range / (most + first + i / 10).
    """
    w = np.abs(x) + np.sqrt(np.sum(x * x, axis=0) / f32(len(x)))
    low, high = np.minimum(x.min(axis=0), f32(0)), x.max(axis=0)
    total_w, total_x = w.sum(axis=0), (w * x).sum(axis=0)
    inverse = np.where(high == low, f32(0), f32(most) / (high - low))
    scale, chosen = np.where(high == low, f32(0), 1 / inverse), (inverse, low)
    q, wq, spare = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    rounded(x, *chosen, most, q)
    least = error(x, w, q, scale, low, spare)
    for i in range(tries + 1):
        inverse = (f32(first) + f32(0.1) * f32(i) + f32(most)) / (high - low)
        rounded(x, inverse, low, most, q)
        sum_q = np.multiply(w, q, out=wq).sum(axis=0)
        sum_qx = np.multiply(wq, x, out=spare).sum(axis=0)
        sum_qq = np.multiply(wq, q, out=spare).sum(axis=0)
        d = total_w * sum_qq - sum_q * sum_q
        fit, start = (total_w * sum_qx - total_x * sum_q) / d, (sum_qq * total_x - sum_q * sum_qx) / d
        fit, start = np.where(start > 0, sum_qx / sum_qq, fit), np.minimum(start, f32(0))
        now = error(x, w, q, fit, start, spare)
        better = (d > 0) & (now < least)
        chosen = np.where(better, inverse, chosen[0]), np.where(better, low, chosen[1])
        least, scale, low = np.where(better, now, least), np.where(better, fit, scale), np.where(better, start, low)
    rounded(x, *chosen, most, q)
    return scale, -low, q


def rounded(x: Array, inverse: Array, low: Array, most: int, out: Array) -> None:
    """The nearest q of (x - low) * inverse in `out`; halves become even."""
    np.subtract(x, low, out=out)
    out *= inverse
    np.rint(out, out=out)
    np.clip(out, 0, most, out=out)


def error(x: Array, w: Array, q: Array, scale: Array, low: Array, spare: Array) -> Array:
    """The weighted squared error of each group."""
    np.multiply(scale, q, out=spare)
    spare += low
    spare -= x
    np.multiply(spare, spare, out=spare)
    spare *= w
    return spare.sum(axis=0)


def scales(x: Array, most: int) -> tuple[Array, Array]:
    """x (numbers, groups) -> the scale of each group, and q from -most to most - 1 (make_qx_quants).

    The number farthest from 0 gets a q of about -most, so a scale may be negative; numbers weigh as their squares.
    """
    farthest = np.take_along_axis(x, np.abs(x).argmax(axis=0)[None], axis=0)[0]
    w = x * x
    wx = w * x
    q, wq = np.empty_like(x), np.empty_like(x)
    scale = best = chosen = np.zeros_like(farthest)
    for i in (0, *range(-9, 0), *range(1, 10)):
        inverse = -(f32(most) + f32(0.1) * f32(i)) / farthest
        nearest(x, inverse, most, q)
        sum_qx = np.multiply(wx, q, out=wq).sum(axis=0)
        np.multiply(w, q, out=wq)
        sum_qq = np.multiply(wq, q, out=wq).sum(axis=0)
        fit = np.where(sum_qq == 0, f32(0), sum_qx / sum_qq)
        better = (sum_qq > 0) & (sum_qx * sum_qx > best * sum_qq) if i else np.full(len(fit), True)
        scale, best = np.where(better, fit, scale), np.where(better, fit * sum_qx, best)
        chosen = np.where(better, inverse, chosen)
    empty = np.abs(farthest) < TINY
    nearest(x, np.where(empty, f32(0), chosen), most, q)
    return np.where(empty, f32(0), scale), np.where(empty, f32(-most), q)


def nearest(x: Array, inverse: Array, most: int, out: Array) -> None:
    """The nearest q of x * inverse in `out`; halves become even."""
    np.multiply(x, inverse, out=out)
    np.rint(out, out=out)
    np.clip(out, -most, most - 1, out=out)
