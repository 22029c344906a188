"""The cells of a table of names: what a format calls the parts of a model, and how their tensors are laid out there.

A table is read across for a part and down for a format; N is the layer, and `-` means that the format has no such part.
Marks turn the stored tensor into ours, from left to right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from fathom.lazy import torch


#   [e]      one of the experts, whose tensors are stored as one, along a first axis
#   [_]      no .weight follows the name, and _bias in the place of .bias
#   [row]    a matrix of one row, stored as a vector
#   [h]      a vector of all heads, stored as (h, c); where the name has an M, as one tensor for each head M
#   .T       stored as (in, out), ours is (out, in)  (GPT-2's Conv1D)
#   [1/3]    stored with others as one tensor; ours is the first of three parts of its rows, thirds or of its own size
#   [1/3g]   the same, but each group of heads that share a key has its own q, k and v one after another; in an
#            MLP rows of gate and up take turns
#   [2:]     rows from the third on; the others are never looked up, and written as zeros
#   [-1]     stored as 1 + ours, in fp32
#   [swap]   the two halves of each head the other way round
#   [pairs]  rope turns channels 2i and 2i + 1 of a head together there, here i and i + c/2: rows are reordered

CELL = re.compile(
    r"(?P<name>[\w.]+?)(?P<expert>\[e\])?(?P<bare>\[_\])?(?P<row>\[row\])?(?P<heads>\[h\])?(?P<T>\.T)?("
    r"\[(?P<part>\d)/(?P<parts>\d)(?P<grouped>g?)\])?(\[(?P<skip>\d):\])?(?P<plus>\[-1\])?"
    r"(?P<swap>\[swap\])?(?P<pairs>\[pairs\])?"
)
T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Where one of our tensors is in a format: the name of the stored tensor, and its marks."""

    name: str
    transposed: bool = False
    part: int = 1
    parts: int = 1
    pairs: bool = False
    swapped: bool = False
    grouped: bool = False
    skip: int = 0
    plus: bool = False
    stacked: bool = False
    bare: bool = False
    row: bool = False
    of_heads: bool = False
    expert: int = 0  # of stacked ones, which
    groups: int = 1  # how many heads have keys; follows from a model's config
    heads: int = 1  # how many heads the rows are for; follows from a model's config
    rotated: int | None = None  # channels of a head that rope rotates; follows from a model's config; None: all
    sizes: tuple[int, ...] = ()  # rows of all parts, where they follow from a model's config; (): equal ones

    def named(self, layer: str, suffix: str) -> str:
        """The stored tensor with our weight or bias of a layer."""
        return join(self.name, layer, suffix.replace(".weight", "").replace(".", "_") if self.bare else suffix)

    @property
    def share(self) -> float:
        """Which part of the stored tensor's numbers is ours."""
        return self.sizes[self.part - 1] / sum(self.sizes) if self.sizes else 1 / self.parts

    @property
    def plain(self) -> bool:
        """Whether the stored tensor is ours as it is."""
        return not (
            self.transposed
            or self.pairs
            or self.swapped
            or self.parts > 1
            or self.skip
            or self.plus
            or self.stacked
            or self.row
            or self.of_heads
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The stored tensors: one, or one for each head."""
        apart = range(self.heads) if self.apart else ()
        return tuple(self.name.replace(".M.", f".{head}.") for head in apart) or (self.name,)

    @property
    def apart(self) -> bool:
        """Whether each head has a tensor of its own."""
        return self.of_heads and ".M." in self.name

    def read(self, stored: Tensor) -> Tensor:
        """Our tensor out of the stored one."""
        if self.plain:
            return stored
        if self.stacked:
            return replace(self, stacked=False).read(stored[self.expert])
        x = stored.T if self.transposed and stored.ndim == 2 else stored[None] if self.row else stored
        x = x.flatten() if self.of_heads else x
        x = x[self.skip :] - 1 if self.plus else x[self.skip :]
        if self.grouped:
            each = x.unflatten(0, (self.groups, -1)).split([size // self.groups for size in self.sizes], dim=1)
            x = each[self.part - 1].flatten(0, 1)
        else:
            x = (x.split(self.sizes) if self.sizes else x.chunk(self.parts))[self.part - 1]
        x = self.reordered(x, swapped) if self.swapped else x
        return self.reordered(x, lambda pairs: pairs.unflatten(1, (-1, 2)).transpose(1, 2)) if self.pairs else x

    def reordered(self, rows: Tensor, order: Callable[[Tensor], Tensor]) -> Tensor:
        """The rows with the rotated ones of each head in another order."""
        heads = rows.unflatten(0, (self.heads, -1))  # (h, c, ...)
        r = heads.shape[1] if self.rotated is None else self.rotated
        return torch.cat((order(heads[:, :r]).flatten(1, 2), heads[:, r:]), dim=1).flatten(0, 1)

    def write(self, ours: Sequence[Tensor]) -> Tensor:
        """The stored tensor, from all of ours that are in it, in order."""
        if self.stacked:
            each = [replace(self, stacked=False).write(group) for group in batched(ours, self.parts)]
            return torch.stack(each)
        if self.row:
            return ours[0][0]
        if self.pairs and self.sizes:  # of q, k and v the first two are reordered, each with its number of heads
            alone = [
                replace(self, part=1, parts=1, sizes=(), heads=n * self.heads // self.sizes[0]) for n in self.sizes
            ]
            ours = [alone[0].write([ours[0]]), alone[1].write([ours[1]]), ours[2]]
            return replace(self, pairs=False).write(ours)
        if self.grouped:
            x = torch.cat([part.unflatten(0, (self.groups, -1)) for part in ours], dim=1).flatten(0, 1)
        else:
            x = torch.cat(list(ours)) if len(ours) > 1 else ours[0]
        x = torch.cat((x.new_zeros(self.skip, *x.shape[1:]), x)) if self.skip else x
        x = x.float() + 1 if self.plus else x
        x = self.reordered(x, swapped) if self.swapped else x
        x = self.reordered(x, lambda halves: halves.unflatten(1, (2, -1)).transpose(1, 2)) if self.pairs else x
        x = x.unflatten(0, (self.heads, -1)) if self.of_heads else x
        return x.T.contiguous() if self.transposed and x.ndim == 2 else x

    def shape(self, ours: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """The shape of what `write` gives, from those of ours."""
        if self.plain:
            return ours[0]
        if self.stacked:
            return (len(ours) // self.parts, *replace(self, stacked=False).shape(ours[: self.parts]))
        if self.row:
            return ours[0][1:]
        rows, *others = ours[0]
        if self.of_heads:
            return (self.heads, rows // self.heads)
        whole = (sum(shape[0] for shape in ours) if len(ours) > 1 else rows + self.skip, *others)
        return whole[::-1] if self.transposed and len(whole) == 2 else whole

    def __str__(self) -> str:
        part = f"[{self.part}/{self.parts}{'g' * self.grouped}]" if self.parts > 1 else ""
        rows = f"[{self.skip}:]" if self.skip else ""
        order = "[swap]" * self.swapped + "[pairs]" * self.pairs
        kind = "[e]" * self.stacked + "[_]" * self.bare + "[row]" * self.row + "[h]" * self.of_heads
        return self.name + kind + ".T" * self.transposed + part + rows + "[-1]" * self.plus + order


def swapped(heads: Tensor) -> Tensor:
    """(h, c, ...) -> (h, 2, c/2, ...), the second half of each head first."""
    return heads.unflatten(1, (2, -1)).flip(1)


def place(cell: str) -> Place:
    """`transformer.h.N.attn.c_attn.T[1/3]` parsed."""
    mark = CELL.fullmatch(cell)
    if mark is None:
        raise ValueError(
            f"{cell!r} is no cell of a table of names; expected NAME, then [e], [_], [row], [h], .T, [1/3], [1/3g],"
            " [2:], [-1] or [pairs]"
        )
    part, parts = int(mark["part"] or 1), int(mark["parts"] or 1)
    return Place(
        mark["name"],
        transposed=mark["T"] is not None,
        part=part,
        parts=parts,
        pairs=mark["pairs"] is not None,
        swapped=mark["swap"] is not None,
        grouped=bool(mark["grouped"]),
        skip=int(mark["skip"] or 0),
        plus=mark["plus"] is not None,
        stacked=mark["expert"] is not None,
        bare=mark["bare"] is not None,
        row=mark["row"] is not None,
        of_heads=mark["heads"] is not None,
    )


def batched(items: Sequence[T], n: int) -> list[Sequence[T]]:
    """Groups of n, in order."""
    return [items[i : i + n] for i in range(0, len(items), n)]


def columns(table: str, cell: Callable[[str], T]) -> dict[str, dict[str, T]]:
    """Format -> our name -> its parsed cell, of every row that the format has a name for."""
    head, *rows = [line.split() for line in table.strip().splitlines()]
    return {format: {row[0]: cell(row[i]) for row in rows if row[i] != "-"} for i, format in enumerate(head)}


def split(name: str) -> tuple[str, str, str]:
    """`blocks.3.attn.q.weight` -> `blocks.N.attn.q`, `3`, `.weight`."""
    part, suffix = re.fullmatch(r"(.*?)(\.weight|\.bias|)", name, re.DOTALL).groups()  # type: ignore[union-attr]
    layer = re.search(r"(?<=\.)\d+(?=\.)", part)
    return re.sub(r"(?<=\.)\d+(?=\.)", "N", part, count=1), layer[0] if layer else "", suffix


def join(part: str, layer: str, suffix: str) -> str:
    """The inverse of `split`."""
    return part.replace(".N.", f".{layer or 'N'}.") + suffix
