"""The processes that train one model together, and what they agree on. One process is a world of its own.

torchrun starts `size` processes that run the same program and tells each its number, the rank. Sums and flags travel
between them; what is added up is divided by nobody. Alone every method returns at once what it was given.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from fathom.machine import pick_device

TIMEOUT = timedelta(minutes=10)  # how long a process waits for the others


@dataclass(frozen=True)
class World:
    """Which of the processes this is. Methods are collective: all of them call the same ones in the same order."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among those of this machine

    @classmethod
    def alone(cls) -> "World":
        """One process, without a process group."""
        return cls()

    @property
    def first(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0

    def device(self, name: str = "auto") -> torch.device:
        """`pick_device`, and of several GPUs that of this process."""
        device = pick_device(name)
        return torch.device("cuda", self.local_rank) if self.size > 1 and str(device) == "cuda" else device

    def total(self, x: Tensor) -> Tensor:
        """The sum over all processes, of x's shape and dtype."""
        return self._reduced(x, dist.ReduceOp.SUM)

    def largest(self, x: Tensor) -> Tensor:
        """The largest of each number over all processes, of x's shape and dtype."""
        return self._reduced(x, dist.ReduceOp.MAX)

    def count(self, n: int) -> int:
        """The sum of n over all processes."""
        return n if self.size == 1 else int(self.total(torch.tensor(n)))

    def agreed(self, flag: bool) -> bool:
        """Whether the flag is set in any process: all of them get the same answer."""
        return flag if self.size == 1 else bool(self.largest(torch.tensor(int(flag))))

    def barrier(self) -> None:
        """Wait until every process has come here."""
        if self.size > 1:
            dist.barrier()

    def _reduced(self, x: Tensor, how: dist.ReduceOp.RedOpType) -> Tensor:
        if self.size == 1:
            return x
        result = x.detach().clone()
        dist.all_reduce(result, how)
        return result


@contextmanager
def joined(device: str = "auto") -> Iterator[World]:
    """The world of this process: as torchrun's environment says, or alone where there is none.

    device: as in TrainOptions. GPUs speak NCCL, and CPUs gloo. A group that exists already is used, and stays.
    """
    if dist.is_available() and dist.is_initialized():
        yield World(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", dist.get_rank())))
        return
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield World.alone()
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    world = World(rank, size, int(os.environ.get("LOCAL_RANK", 0)))
    place = world.device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo",
        timeout=TIMEOUT,
        device_id=place if place.type == "cuda" else None,
    )
    try:
        yield world
    finally:
        dist.destroy_process_group()
