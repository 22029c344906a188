"""y = W x on a GPU for one x: every weight is read once, 16 bytes at a time, and multiplied in registers. Needs triton.

Each program takes ROWS rows of W and BLOCK numbers (in 4 bits: groups) of each at a time; the second axis of programs
are the rows of x. W is in floats as in nn.Linear, or in 4 bits as quant/integer.py packs it: a group's 16 bytes
hold q + 8 of its numbers i in the low halves and i + 16 in the high ones.
"""

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def floats(x, weight, y, width, ROWS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """x (b, in), weight (out, in) -> y (b, out), for programs (out / ROWS, b)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    x += tl.program_id(1) * width
    total = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for start in range(0, width, BLOCK):
        place = start + tl.arange(0, BLOCK)
        there = place < width
        w = tl.load(weight + row.to(tl.int64)[:, None] * width + place[None, :], mask=there[None, :], other=0.0)
        number = tl.load(x + place, mask=there, other=0.0)
        total += w.to(tl.float32) * number.to(tl.float32)[None, :]
    out = y + tl.program_id(1) * tl.num_programs(0) * ROWS + row
    tl.store(out, tl.sum(total, 1).to(y.dtype.element_ty))


@triton.jit  # type: ignore[untyped-decorator]
def four_bits(x, codes, scales, y, groups, ROWS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """x (b, groups * 32), codes (out, groups, 16), scales (out, groups) -> y (b, out), for programs (out / ROWS, b).

    sum of scale (code - 8) x over a group = scale (sum of code x - 8 sum of x): the last sum is one for all rows.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    x += tl.program_id(1) * groups * 32
    total = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    i = tl.arange(0, 16)
    for start in range(0, groups, BLOCK):
        group = start + tl.arange(0, BLOCK)
        there = group < groups
        at = row.to(tl.int64)[:, None] * groups + group[None, :]
        code = tl.load(codes + at[:, :, None] * 16 + i[None, None, :], mask=there[None, :, None], other=0)
        scale = tl.load(scales + at, mask=there[None, :], other=0.0)
        begin = x + group[:, None] * 32 + i[None, :]
        low = tl.load(begin, mask=there[:, None], other=0.0).to(tl.float32)  # (BLOCK, 16)
        high = tl.load(begin + 16, mask=there[:, None], other=0.0).to(tl.float32)
        product = (code & 15).to(tl.float32) * low[None, :, :] + (code >> 4).to(tl.float32) * high[None, :, :]
        total += (tl.sum(product, 2) - 8 * tl.sum(low + high, 1)[None, :]) * scale.to(tl.float32)
    out = y + tl.program_id(1) * tl.num_programs(0) * ROWS + row
    tl.store(out, tl.sum(total, 1).to(y.dtype.element_ty))
