"""Whole numbers of 4, 5 or 6 bits in bytes, 32 to a group, so that four numbers lie in a word of four bytes.

low     16 bytes: byte i holds the low 4 bits of numbers i (its low half) and i + 16 (its high half)
upper   4 bytes for each bit that is left; the numbers are words of 4, in order, and each byte holds the bits of
        one number of several words: of all 8 words one bit, or of 4 words two (the second 4 bytes: of the last 4)
"""

import torch
from torch import Tensor


def numbers(low: Tensor, upper: Tensor | None = None) -> Tensor:
    """low (..., 16) and upper (..., 4 * bits), uint8 -> the numbers (..., 32), uint8."""
    four = torch.cat((low & 15, low >> 4), -1)
    if upper is None:
        return four
    bits = upper.shape[-1] // 4
    words = upper.unflatten(-1, (bits, 1, 4)) >> shifts(bits, upper)  # (..., bits, words, 4)
    return four | (words & (1 << bits) - 1).flatten(-3) << 4


def in_bytes(q: Tensor, bits: int) -> tuple[Tensor, Tensor | None]:
    """The opposite: q (..., 32), uint8, of 4 + `bits` bits -> low and upper."""
    first, last = (q & 15).chunk(2, -1)
    low = first | last << 4
    if not bits:
        return low, None
    words = (q >> 4).unflatten(-1, (bits, 8 // bits, 4)) << shifts(bits, q)
    return low, words.sum(-2, dtype=torch.uint8).flatten(-2)


def shifts(bits: int, like: Tensor) -> Tensor:
    """How far the bits of each word are from the lowest: (words, 1)."""
    return torch.arange(0, 8, bits, dtype=torch.uint8, device=like.device)[:, None]
