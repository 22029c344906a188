"""A model in files, opened but not read: what it is, where each tensor lies, and how to get one.

Every format's reader ends here, and everything that uses a file begins here. A tensor's numbers are touched only when
it is read, so that opening 70 billion of them is instant. Does not know any format.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from mmap import ACCESS_COPY, ALLOCATIONGRANULARITY, mmap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.families.family import Family
from fathom.model.config import ModelConfig
from fathom.quant.scheme import Packed
from fathom.tokenizer.protocol import Tokenizer

# Numbers in a file as tensors, without reading them: pages come from the disk when they are first used.
#
# Each tensor has a map of its own and takes its pages with it when it goes, so that converting a model never holds it
# twice. Maps are copy-on-write: what is written to a tensor stays in memory, and the file is never changed. Does not
# know what the numbers mean.


def tensor_at(path: Path, start: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The numbers from byte `start` of the file on, in rows. The caller has seen that they lie within it."""
    count = math.prod(shape)
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
    if start % dtype.itemsize:  # no library promises numbers that lie across words
        return torch.frombuffer(bytearray(mapped[skipped:span]), dtype=dtype).view(tuple(shape))
    return torch.frombuffer(mapped, dtype=dtype, count=count, offset=skipped).view(tuple(shape))


@dataclass(frozen=True)
class Stored:
    """One tensor in a file. `shape` is torch's: rows first, even where the format lists them last."""

    shape: tuple[int, ...]
    kind: str  # as its format calls the type: BF16, Q4_K
    nbytes: int  # in the file
    read: Callable[[], Tensor]  # its numbers in a float dtype; memory-mapped where they lie there as they are
    unpack: Callable[[int, int], Tensor] | None = None  # some rows, where reading them all means unpacking them
    packed: Mapping[str, Callable[[], Packed | None]] = field(default_factory=dict)  # what it lies there as: int8, int4

    def rows(self, start: int, stop: int) -> Tensor:
        """Some of its rows: the pages of the others are not touched."""
        return self.read()[start:stop] if self.unpack is None else self.unpack(start, stop)


@dataclass(frozen=True)
class Opened:
    """What a path holds. Its tensors have the names of the column `names` of their family; without one, our own."""

    path: Path
    format: str  # in words, such as "GGUF v3" or "Meta, 2 shards"
    config: ModelConfig
    family: Family | None
    names: str  # ours, hf, meta or gguf
    tensors: Mapping[str, Stored]
    tokenizer: Callable[[], Tokenizer | None]  # None: the files hold none
    about: Mapping[str, Any] = field(default_factory=dict)  # what the files say of themselves, as plain JSON values

    @property
    def nbytes(self) -> int:
        """Of all tensors, in the files."""
        return sum(stored.nbytes for stored in self.tensors.values())
