"""A model in files, opened but not read: its config, its tensors and where each of them is.

Every format's reader ends here, and every user of a file begins here. A tensor's numbers are touched only when it is
read, so that opening 70 billion of them is instant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from mmap import ACCESS_COPY, ALLOCATIONGRANULARITY, mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fathom.errors import FathomError
from fathom.families.family import Family
from fathom.model.config import ModelConfig
from fathom.quant.scheme import Packed
from fathom.tokenizer.protocol import Tokenizer

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from fathom.lazy import torch


ITEMSIZE = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "BOOL": 1, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1}  # bytes
CHUNK = 1 << 20  # bytes that are worked on at a time, so that they stay in the processor's cache
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
FLOATS8 = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu"}  # read as fp32
DTYPES = FLOATS | FLOATS8 | {  # as safetensors calls them, and as torch does
    "U32": "uint32",
    "BOOL": "bool", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """One tensor in a file. `shape` is torch's: rows first, even where the format lists them last."""

    shape: tuple[int, ...]
    kind: str  # the type of its numbers as its format calls it: BF16, Q4_K
    nbytes: int  # in the file
    read: Callable[[], Tensor]  # its numbers in a float dtype; mapped into memory where no conversion is needed
    unpack: Callable[[int, int], Tensor] | None = None  # a range of rows, where reading means unpacking
    packed: Mapping[str, Callable[[], Packed | None]] = field(default_factory=dict)  # by scheme: its codes and scales
    span: tuple[Path, int] | None = None  # the file and the first of its bytes, where they are as they are
    items: Callable[[int], Stored] | None = None  # its parts along the first axis, where the format reads them alone

    def rows(self, start: int, stop: int) -> Tensor:
        """A range of rows; the pages of the others are not touched."""
        return self.read()[start:stop] if self.unpack is None else self.unpack(start, stop)

    def item(self, i: int) -> Stored:
        """One of its parts along the first axis, such as the matrix of one expert."""
        if self.items is not None:
            return self.items(i)
        unpack = None if self.unpack is None else lambda start, stop: self.rows(i, i + 1)[0][start:stop]
        return Stored(self.shape[1:], self.kind, self.nbytes // self.shape[0], lambda: self.rows(i, i + 1)[0], unpack)

    def content(self, limit: int) -> bytes:
        """The bytes of a small tensor, without torch where they are as they are. FathomError for more than `limit`."""
        if self.nbytes > limit:
            raise FathomError(f"a tensor of {self.nbytes} bytes; expected at most {limit}")
        if self.span is None:
            return self.read().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        path, start = self.span
        try:
            with path.open("rb") as file:
                file.seek(start)
                return file.read(self.nbytes)
        except OSError as problem:
            raise FathomError(f"{path} cannot be read ({problem.strerror or problem})") from None


@dataclass(frozen=True)
class Opened:
    """A model in files. Its tensors have the names of the column `names` of their family; without a family, our own."""

    path: Path
    format: str  # for readers, such as "GGUF v3" or "Meta, 2 shards"
    config: ModelConfig
    family: Family | None
    names: str  # ours, hf, meta or gguf
    tensors: Mapping[str, Stored]
    tokenizer: Callable[[], Tokenizer | None]  # None: the files hold none
    metadata: Mapping[str, Any] = field(default_factory=dict)  # what else the files say, as plain JSON values

    @property
    def packed(self) -> bool:
        """Whether it holds matrices in codes of whole numbers or 8-bit floats."""
        return any(stored.unpack is not None for stored in self.tensors.values())

    @property
    def nbytes(self) -> int:
        """Of all tensors, in the files."""
        return sum(stored.nbytes for stored in self.tensors.values())


def tensor_at(path: Path, start: int, shape: Sequence[int], dtype_name: str) -> Tensor:
    """Numbers in a file from byte `start` on, mapped into memory; the caller has checked that they are within it.

    Each tensor has a map of its own and releases its pages with it, so that converting a model never holds it twice.
    Maps are copy-on-write: writing to a tensor never changes the file.
    """
    count, dtype = math.prod(shape), getattr(torch, dtype_name)
    if not count:
        return torch.empty(tuple(shape), dtype=dtype)
    skipped = start % ALLOCATIONGRANULARITY  # a map begins at a page
    span = skipped + count * dtype.itemsize
    try:
        with path.open("rb") as file:
            mapped = mmap(file.fileno(), span, access=ACCESS_COPY, offset=start - skipped)
    except (OSError, ValueError) as problem:  # ValueError: the file has become shorter
        reason = getattr(problem, "strerror", None) or problem
        raise FathomError(f"{path} cannot be mapped into memory ({reason}); expected a readable file") from None
    if start % dtype.itemsize:  # numbers that are not aligned are copied
        return torch.frombuffer(bytearray(mapped[skipped:span]), dtype=dtype).view(tuple(shape))
    return torch.frombuffer(mapped, dtype=dtype, count=count, offset=skipped).view(tuple(shape))
