"""Numbers in a file as tensors, without reading them: pages come from the disk when they are first used.

The map is copy-on-write: what is written to such a tensor stays in memory, and the file is never changed. Does not know
what the numbers mean.
"""

import math
from collections.abc import Sequence
from mmap import ACCESS_COPY, mmap
from pathlib import Path

import torch
from torch import Tensor

from fathom.errors import FathomError


def map_file(path: Path) -> mmap:
    """All bytes of a file that is not empty."""
    try:
        with path.open("rb") as file:
            return mmap(file.fileno(), 0, access=ACCESS_COPY)
    except (OSError, ValueError) as problem:  # ValueError: a file without a byte
        reason = getattr(problem, "strerror", None) or problem
        raise FathomError(f"{path} cannot be mapped into memory ({reason}); expected a readable file") from None


def tensor_at(mapped: mmap, start: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The numbers from byte `start` on, in rows. The caller has seen that they lie within the file."""
    count = math.prod(shape)
    if not count:
        return torch.empty(shape, dtype=dtype)
    if start % dtype.itemsize:  # no library promises numbers that lie across words
        end = start + count * dtype.itemsize
        return torch.frombuffer(bytearray(mapped[start:end]), dtype=dtype).view(shape)
    return torch.frombuffer(mapped, dtype=dtype, count=count, offset=start).view(shape)
