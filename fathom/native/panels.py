"""Weights in panels of 16 rows, and their product with a few or many vectors: what panels.h computes, as tensors.

A panel is 16 rows of 4-byte words, transposed. One word holds 1 weight in fp32, 2 in bf16, 4 codes in int8 and 8 in
int4. Does not know modules or models.
"""

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fathom.native.arena import Arena, padded
from fathom.native.build import library

ROWS, GROUP = 16, 32
KINDS = ("fp32", "bf16", "int8", "int4")  # in the order of panels.h
SIGN = -0x7F7F7F80  # 0x80808080 as int32: turns four signed bytes into bytes that are 128 larger


class Linear(ctypes.Structure):
    """`struct Linear` of panels.h."""

    _fields_ = [
        ("kind", ctypes.c_int64),
        ("out", ctypes.c_int64),
        ("in", ctypes.c_int64),
        ("lines", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    ]


@dataclass(frozen=True)
class Panels:
    """A matrix (out, in) and perhaps a bias."""

    kind: str
    shape: tuple[int, int]
    lines: Tensor  # (panels, words of a row, 16) int32
    scales: Tensor | None  # (panels, groups, 16) fp16
    bias: Tensor | None  # (out,) fp32

    @property
    def nbytes(self) -> int:
        return self.lines.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def struct(self) -> Linear:
        """What the native side reads. Its pointers are good for as long as these panels live."""
        out, width = self.shape
        return Linear(
            KINDS.index(self.kind), out, width, self.lines.data_ptr(), pointer(self.scales), pointer(self.bias)
        )

    def product(self, x: Tensor) -> Tensor:
        """x W^T + b: x (..., in), fp32 or bf16 -> (..., out) of the same format."""
        lib = library("panels")
        assert lib is not None, "panels are made where native code runs"
        out, width = self.shape
        rows = x.reshape(-1, width).contiguous()
        y = x.new_empty(len(rows), out)
        narrow = x.dtype == torch.bfloat16
        lib.linear(ctypes.byref(self.struct()), ctypes.c_void_p(rows.data_ptr()), narrow, ctypes.c_int64(len(rows)),
                   ctypes.c_void_p(y.data_ptr()), narrow, torch.get_num_threads())  # fmt: skip
        return y.view(*x.shape[:-1], out)

    def matrix(self) -> Tensor:
        """The weights as they were, (out, in): floats in their own format, codes times scales in fp32."""
        (out, width), rows = self.shape, len(self.lines) * ROWS
        words = self.lines.mT.flatten()  # row after row
        if self.scales is None:
            return words.view(DTYPES[self.kind]).view(rows, -1)[:out, :width]
        scales = self.scales.mT.flatten(0, 1).float()[..., None]  # (rows, groups, 1)
        codes = (words ^ SIGN).view(torch.int8).view(rows, -1, GROUP) if self.kind == "int8" else halves(words, rows)
        return (codes.float() * scales).flatten(1)[:out, :width]


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def halves(words: Tensor, rows: int) -> Tensor:  # int32, row after row -> (rows, groups, 32)
    """Codes of int4: a group's first 16 are the low halves of its bytes, its last 16 the high ones."""
    pairs = words.view(torch.uint8).view(rows, -1, GROUP // 2)
    return torch.cat((pairs & 15, pairs >> 4), -1).to(torch.int8) - 8


def words_per_row(kind: str, width: int) -> int:
    groups = -(-width // GROUP)
    return {"fp32": width, "bf16": -(-width // 2), "int8": groups * 8, "int4": groups * 4}[kind]


def panel_bytes(kind: str, shape: tuple[int, int]) -> int:
    """What panels of a matrix (out, in) take of an arena."""
    panels = -(-shape[0] // ROWS)
    scales = padded(panels * -(-shape[1] // GROUP) * ROWS * 2) if kind in ("int8", "int4") else 0
    return padded(panels * words_per_row(kind, shape[1]) * ROWS * 4) + scales


def from_float(weight: Tensor, bias: Tensor | None, arena: Arena) -> Panels:
    """Panels of a matrix (out, in) in fp32 or bf16."""
    out, width = weight.shape
    kind = "bf16" if weight.dtype == torch.bfloat16 else "fp32"
    even = F.pad(weight.detach(), (0, width % 2)) if kind == "bf16" else weight.detach()
    words = even.contiguous().view(torch.int32)  # (out, words)
    return Panels(kind, (out, width), transposed(words, arena), None, single(bias))


def from_groups(
    kind: str, packed: Mapping[str, Tensor], shape: tuple[int, int], bias: Tensor | None, arena: Arena
) -> Panels:
    """Panels of `codes` and `scales` as quant/integer.py lay them out."""
    words = packed["codes"].flatten(1).view(torch.int32)
    if kind == "int8":
        words = words ^ SIGN
    return Panels(kind, shape, transposed(words, arena), transposed(packed["scales"], arena), single(bias))


def transposed(rows: Tensor, arena: Arena) -> Tensor:
    """(out, n) -> (panels, n, 16), the last panel filled up with zeros."""
    out, n = rows.shape
    whole, rest = divmod(out, ROWS)
    panels = arena.take((whole + (rest > 0), n, ROWS), rows.dtype)
    panels[:whole].copy_(rows[: whole * ROWS].unflatten(0, (whole, ROWS)).mT)
    if rest:
        panels[whole].zero_()[:, :rest].copy_(rows[whole * ROWS :].mT)
    return panels


def single(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach().float().contiguous()


def pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
