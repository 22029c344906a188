"""Weights in panels of 16 rows, the arena that holds them, and their product with one or many vectors (panels.h).

A panel is 16 rows of 4-byte words, transposed. One word holds 1 weight in fp32, 2 in bf16, 4 codes in int8 and 8 in
int4. K-quants have 4 low bits of 8 codes in a word, as int4, and their upper bits in further words of each group.
"""

import mmap
from collections.abc import Mapping
from contextlib import suppress
from ctypes import CDLL, addressof, c_char, c_int64, c_size_t, c_void_p
from dataclasses import dataclass
from threading import Thread

import torch
import torch.nn.functional as F
from torch import Tensor

from fathom.errors import FathomError
from fathom.native.build import library
from fathom.native.codes import numbers
from fathom.native.interface import Linear, WeightKind

ROWS, GROUP = 16, 32
GROUP_WORDS = {"int8": 8, "int4": 4, "q4_k": 4, "q5_k": 5, "q6_k": 6}  # of a row, in a group
PACKED = tuple(GROUP_WORDS)  # kinds of codes and scales; the others are floats
BLOCK = {"q4_k": 2, "q5_k": 2, "q6_k": 1}  # kinds with steps -> how many scales 256 numbers of a row have
SIGN = -0x7F7F7F80  # 0x80808080 as int32: flips the sign bits of four int8 codes, which adds 128 to each as unsigned
COLLAPSE, AT_ONCE = (
    25,
    32 << 20,
)  # MADV_COLLAPSE of Linux 6.1; bytes, so that nothing else waits long for the memory map
ALIGNMENT = 64  # bytes: a cache line, and the widest register


def private(nbytes: int) -> mmap.mmap:
    """Zeros of this process alone: what processes could share lies on large pages only where that is allowed apart."""
    size = -(-max(nbytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return mmap.mmap(-1, size)
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def on_large_pages(memory: mmap.mmap, beside: bool = False) -> Thread | None:
    """Let memory lie on large pages, where the system has them: a matrix read from end to end takes an address
    translation for each page of 4 KiB, and hardly any for pages of 2 MiB. What is written already is moved there, if
    `beside`, by a thread of its own, so that nobody waits for the system to find such pages."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):  # only on Linux
        return None
    with suppress(OSError):  # a kernel without large pages: slower, and otherwise the same
        memory.madvise(mmap.MADV_HUGEPAGE)
    if not beside:
        return None
    advise, address = CDLL(None).madvise, addressof(c_char.from_buffer(memory))

    def move() -> None:
        for start in range(0, len(memory), AT_ONCE):  # an older kernel refuses, and moves them in its own time
            advise(c_void_p(address + start), c_size_t(min(AT_ONCE, len(memory) - start)), COLLAPSE)

    moving = Thread(target=move, daemon=True)
    moving.start()
    return moving


class Arena:
    """One block of `nbytes` for all weights of a model, from which tensors are taken; freed with the last of them."""

    def __init__(self, nbytes: int) -> None:
        self.memory, self.used = private(nbytes), 0

    def filled(self) -> Thread | None:
        """All weights are here: see `on_large_pages`."""
        return on_large_pages(self.memory, beside=True)

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
    scales: Tensor | None  # (panels, scales of a row, 16) fp16
    bias: Tensor | None  # (out,) fp32
    steps: Tensor | None = None  # (panels, groups * 2, 16) int8, of k-quants

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in (self.lines, self.scales, self.steps) if x is not None)

    def struct(self) -> Linear:
        """The structure that native code reads; its pointers are valid as long as these panels exist."""
        kind, (out, width) = WeightKind[self.kind.upper()], self.shape
        parts = (self.lines.data_ptr(), address(self.scales), address(self.steps), address(self.bias))
        return Linear(kind, out, width, *parts)

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
        scales = self.scales.mT.flatten(0, 1).float()  # (rows, scales of a row)
        if self.kind == "int8":
            codes = (words ^ SIGN).view(torch.int8).view(rows, -1, GROUP).float()
            return (codes * scales[..., None]).flatten(1)[:out, :width]
        of_group = words.view(torch.uint8).view(rows, -1, 4 * GROUP_WORDS[self.kind])
        low, upper = of_group[..., : GROUP // 2], of_group[..., GROUP // 2 :]
        codes = numbers(low, upper if upper.shape[-1] else None).float()  # (rows, groups, 32)
        if self.steps is None:
            return ((codes - 8) * scales[..., None]).flatten(1)[:out, :width]
        steps = self.steps.mT.flatten(0, 1).float().unflatten(1, (-1, 2))  # (rows, groups, 2)
        return k_quant(codes, steps, scales.unflatten(1, (-1, BLOCK[self.kind]))).flatten(1)[:out]


def k_quant(codes: Tensor, steps: Tensor, scales: Tensor) -> Tensor:
    """codes (rows, groups, 32), steps (rows, groups, 2) and scales (rows, blocks, 1 or 2) -> values (rows, groups, 32).

    With one scale the steps are those of the first 16 numbers and of the last; with two the second pair is subtracted.
    """
    of_group = scales.repeat_interleave(steps.shape[1] // max(scales.shape[1], 1), 1) * steps  # (rows, groups, 2)
    if scales.shape[-1] == 2:
        return of_group[..., :1] * codes - of_group[..., 1:]
    return ((codes - 32).unflatten(-1, (2, -1)) * of_group[..., None]).flatten(-2)


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def words_per_row(kind: str, width: int) -> int:
    floats = {"fp32": width, "bf16": -(-width // 2)}
    return floats[kind] if kind in floats else groups(width) * GROUP_WORDS[kind]


def groups(width: int) -> int:
    return -(-width // GROUP)


def panel_bytes(kind: str, shape: tuple[int, int]) -> int:
    """The bytes that panels of a matrix (out, in) take in an arena."""
    panels, n = -(-shape[0] // ROWS), groups(shape[1])
    scales = n // 8 * BLOCK[kind] if kind in BLOCK else n if kind in PACKED else 0
    sizes = (words_per_row(kind, shape[1]) * 4, scales * 2, n * 2 if kind in BLOCK else 0)  # of a row
    return sum(aligned(panels * ROWS * size) for size in sizes)


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
    """Panels of the fields of a matrix, as quant/integer.py and quant/k_quants.py lay them out."""
    parts = [packed[name] for name in ("codes", "upper") if name in packed]
    codes = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
    lines = transposed(codes, arena, torch.int32, SIGN if kind == "int8" else 0)
    scales = transposed(packed["scales"], arena)
    steps = transposed(packed["steps"], arena) if kind in BLOCK else None
    return Panels(kind, shape, lines, scales, as_fp32(bias), steps)


def transposed(rows: Tensor, arena: Arena, dtype: torch.dtype | None = None, flip: int = 0) -> Tensor:
    """(out, groups, n) or (out, n) -> (panels, numbers of a row, 16), the last panel padded with zeros. Groups may lie
    apart, as codes in a file's blocks do. dtype: what their bytes are read as. flip: bits that are turned over."""
    if rows.ndim == 2:
        rows = rows[:, None] if rows.stride(1) == 1 else rows[..., None]
    if rows.stride(2) != 1 and rows.shape[2] > 1:
        rows = rows.contiguous()
    dtype, (out, n_groups, n) = dtype or rows.dtype, rows.shape
    n = n * rows.itemsize // dtype.itemsize
    panels = arena.take((-(-out // ROWS), n_groups * n, ROWS), dtype)
    if (lib := library("panels")) is not None:
        steps = (rows.stride(0) * rows.itemsize, rows.stride(1) * rows.itemsize)
        sizes = (c_int64 * 7)(out, n_groups, n, *steps, dtype.itemsize, flip)
        lib.transpose(rows.view(torch.uint8), sizes, panels.view(torch.uint8), torch.get_num_threads())
        return panels
    words = F.pad(rows.flatten(1).view(dtype), (0, 0, 0, -out % ROWS))
    panels.copy_((words ^ flip if flip else words).unflatten(0, (-1, ROWS)).mT)
    return panels


def as_fp32(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach().float().contiguous()


def address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
