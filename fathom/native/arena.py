"""One block of memory for all weights of a model, on large pages where the system gives them.

A processor finds a page of 4 KiB by looking it up; a matrix read from end to end needs many thousands of look-ups, one
of 2 MiB pages hardly any. Does not know what it holds.
"""

import mmap
from contextlib import suppress

import torch
from torch import Tensor

ALIGNED = 64  # bytes: a line of the processor's cache, and the widest register


class Arena:
    """Hands out tensors one after another from `nbytes` of memory, which is freed with the last of them."""

    def __init__(self, nbytes: int) -> None:
        size = -(-max(nbytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        self.memory = mmap.mmap(-1, size)
        if hasattr(mmap, "MADV_HUGEPAGE"):  # Linux alone has it
            with suppress(OSError):  # a kernel without them: the pages are small, the numbers the same
                self.memory.madvise(mmap.MADV_HUGEPAGE)
        self.used = 0

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor."""
        count = torch.Size(shape).numel()
        tensor = torch.frombuffer(self.memory, dtype=dtype, count=count, offset=self.used)
        self.used += padded(count * dtype.itemsize)
        return tensor.view(shape)


def padded(nbytes: int) -> int:
    """What a tensor of this size takes of an arena."""
    return -(-nbytes // ALIGNED) * ALIGNED
