"""Weights in panels of 16 rows, the arena that holds them, and their product with one or many vectors (panels.h).

A panel is 16 rows of 4-byte words, transposed. One word holds 1 weight in fp32, 2 in bf16, 4 codes in int8 and 8 in
int4.
"""

import mmap
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fathom.errors import FathomError
from fathom.native.build import library
from fathom.native.interface import Linear, WeightKind

ROWS, GROUP = 16, 32
PACKED = ("int8", "int4")  # kinds of codes and scales; the others are floats
SIGN = -0x7F7F7F80  # 0x80808080 as int32: flips the sign bits of four int8 codes, which adds 128 to each as unsigned
ALIGNMENT = 64  # bytes: a cache line, and the widest register


class Arena:
    """One block of `nbytes` for all weights of a model, from which tensors are taken; freed with the last of them.

    On large pages where the system has them: a matrix read from end to end takes an address translation for each page
    of 4 KiB, and hardly any for pages of 2 MiB.
    """

    def __init__(self, nbytes: int) -> None:
        size = -(-max(nbytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        self.memory = mmap.mmap(-1, size)
        if hasattr(mmap, "MADV_HUGEPAGE"):  # only on Linux
            with suppress(OSError):  # a kernel without large pages: slower, and otherwise the same
                self.memory.madvise(mmap.MADV_HUGEPAGE)
        self.used = 0

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor."""
        count = torch.Size(shape).numel()
        tensor = torch.frombuffer(self.memory, dtype=dtype, count=count, offset=self.used)
        self.used += aligned(count * dtype.itemsize)
        return tensor.view(shape)


def aligned(nbytes: int) -> int:
    """The bytes that a tensor of `nbytes` takes in an arena."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class Panels:
    """A matrix (out, in) and an optional bias."""

    kind: str
    shape: tuple[int, int]
    lines: Tensor  # (panels, words of a row, 16) int32
    scales: Tensor | None  # (panels, groups, 16) fp16
    bias: Tensor | None  # (out,) fp32

    @property
    def nbytes(self) -> int:
        return self.lines.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def struct(self) -> Linear:
        """The structure that native code reads; its pointers are valid as long as these panels exist."""
        kind, (out, width) = WeightKind[self.kind.upper()], self.shape
        return Linear(kind, out, width, self.lines.data_ptr(), address(self.scales), address(self.bias))

    def product(self, x: Tensor) -> Tensor:
        """x W^T + b: x (..., in), fp32 or bf16 -> (..., out) of the same format."""
        lib = library("panels")
        if lib is None:
            raise FathomError("native code was switched off after this model was prepared; load the model again")
        out, width = self.shape
        rows = x.reshape(-1, width).contiguous()
        y = x.new_empty(len(rows), out)
        bf16 = x.dtype == torch.bfloat16
        if not lib.linear(self.struct(), rows, bf16, len(rows), y, bf16, torch.get_num_threads()):
            raise FathomError(f"native code does not support {self.kind} weights; set FATHOM_NATIVE=off")
        return y.view(*x.shape[:-1], out)

    def matrix(self) -> Tensor:
        """The matrix (out, in): float weights in their own format, integer codes times scales in fp32."""
        (out, width), rows = self.shape, len(self.lines) * ROWS
        words = self.lines.mT.flatten()  # row after row
        if self.scales is None:
            return words.view(DTYPES[self.kind]).view(rows, -1)[:out, :width]
        scales = self.scales.mT.flatten(0, 1).float()[..., None]  # (rows, groups, 1)
        codes = (words ^ SIGN).view(torch.int8).view(rows, -1, GROUP) if self.kind == "int8" else nibbles(words, rows)
        return (codes.float() * scales).flatten(1)[:out, :width]


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def nibbles(words: Tensor, rows: int) -> Tensor:  # int32, row after row -> (rows, groups, 32)
    """Codes of int4: the first 16 of a group are the low nibbles of its bytes, the last 16 the high ones."""
    pairs = words.view(torch.uint8).view(rows, -1, GROUP // 2)
    return torch.cat((pairs & 15, pairs >> 4), -1).to(torch.int8) - 8


def words_per_row(kind: str, width: int) -> int:
    groups = -(-width // GROUP)
    return {"fp32": width, "bf16": -(-width // 2), "int8": groups * 8, "int4": groups * 4}[kind]


def panel_bytes(kind: str, shape: tuple[int, int]) -> int:
    """The bytes that panels of a matrix (out, in) take in an arena."""
    panels = -(-shape[0] // ROWS)
    scales = aligned(panels * -(-shape[1] // GROUP) * ROWS * 2) if kind in PACKED else 0
    return aligned(panels * words_per_row(kind, shape[1]) * ROWS * 4) + scales


def from_float(weight: Tensor, bias: Tensor | None, arena: Arena) -> Panels:
    """Panels of a matrix (out, in) in fp32 or bf16."""
    out, width = weight.shape
    kind = "bf16" if weight.dtype == torch.bfloat16 else "fp32"
    even = F.pad(weight.detach(), (0, width % 2)) if kind == "bf16" else weight.detach()
    words = even.contiguous().view(torch.int32)  # (out, words)
    return Panels(kind, (out, width), transposed(words, arena), None, as_fp32(bias))


def from_groups(
    kind: str, packed: Mapping[str, Tensor], shape: tuple[int, int], bias: Tensor | None, arena: Arena
) -> Panels:
    """Panels of `codes` and `scales` as quant/integer.py lay them out."""
    words = packed["codes"].flatten(1).view(torch.int32)
    if kind == "int8":
        words = words ^ SIGN
    return Panels(kind, shape, transposed(words, arena), transposed(packed["scales"], arena), as_fp32(bias))


def transposed(rows: Tensor, arena: Arena) -> Tensor:
    """(out, n) -> (panels, n, 16), the last panel padded with zeros."""
    out, n = rows.shape
    whole, rest = divmod(out, ROWS)
    panels = arena.take((whole + (rest > 0), n, ROWS), rows.dtype)
    panels[:whole].copy_(rows[: whole * ROWS].unflatten(0, (whole, ROWS)).mT)
    if rest:
        panels[whole].zero_()[:, :rest].copy_(rows[whole * ROWS :].mT)
    return panels


def as_fp32(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach().float().contiguous()


def address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
