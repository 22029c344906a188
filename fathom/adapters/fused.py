"""One matrix, or three that a format keeps as one: an adapter of q, k and v as an adapter of GPT-2's c_attn, and back.

With one a for all three, their b lie one below the other. With three, their a do, and b has blocks: the ranks add up.
Lengths of rows (DoRA) lie one below the other either way. Does not know files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#     a = a_q     b = b_q  .   .       rank r_q + r_k + r_v
#         a_k          .  b_k  .
#         a_v          .   .  b_v


@dataclass(frozen=True)
class Factors:
    """scale b a, and the lengths of the rows of W + scale b a where they are learned too."""

    a: Tensor  # (r, in)
    b: Tensor  # (out, r)
    scale: float
    magnitude: Tensor | None = None  # (out,)
    table: bool = False  # of an embedding: columns of a are looked up

    @property
    def rank(self) -> int:
        return len(self.a)


def fuse(parts: Sequence[Factors | None], magnitudes: Sequence[Tensor], outs: Sequence[int]) -> Factors:
    """One adapter of all rows. None: a part without one; `magnitudes`: of its rows then. `outs`: how many rows each
    part has. Where scales differ, b takes the difference."""
    there = [part for part in parts if part is not None]
    scale, shared = there[0].scale, all(torch.equal(part.a, there[0].a) for part in there)
    widths = [0 if part is None else part.rank for part in parts]
    b = torch.zeros(sum(outs), there[0].rank if shared else sum(widths))
    for i, part in enumerate(parts):
        if part is not None:
            column = 0 if shared else sum(widths[:i])
            b[sum(outs[:i]) : sum(outs[: i + 1]), column : column + part.rank] = part.b * (part.scale / scale)
    lengths = [rows if part is None else part.magnitude for part, rows in zip(parts, magnitudes)]
    whole = None if there[0].magnitude is None else torch.cat([x for x in lengths if x is not None])
    return Factors(there[0].a if shared else torch.cat([part.a for part in there]), b, scale, whole)


def split(whole: Factors, outs: Sequence[int]) -> list[Factors | None]:
    """One adapter for each part, None where it would do nothing. What is 0 in a part but not in all, is left out there:
    so the blocks that `fuse` made are again what they were."""
    used = (whole.b != 0).any(0)  # (r,)
    lengths = [None] * len(outs) if whole.magnitude is None else whole.magnitude.split(list(outs))
    found: list[Factors | None] = []
    for b, magnitude in zip(whole.b.split(list(outs)), lengths):
        keep = (b != 0).any(0) | ~used  # (r,)
        if magnitude is not None and not keep.any():
            keep[0] = True
        part = Factors(whole.a[keep].clone(), b[:, keep].clone(), whole.scale, magnitude)
        found.append(part if keep.any() else None)
    return found
