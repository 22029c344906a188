"""Numbers in a file as tensors, without reading them: pages come from the disk when they are first used.

Each tensor has a map of its own and takes its pages with it when it goes, so that converting a model never holds it
twice. Maps are copy-on-write: what is written to a tensor stays in memory, and the file is never changed. Does not know
what the numbers mean.
"""

import math
from collections.abc import Sequence
from mmap import ACCESS_COPY, ALLOCATIONGRANULARITY, mmap
from pathlib import Path

import torch
from torch import Tensor

from fathom.errors import FathomError


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
