"""The processes that train one model together, and what they agree on. One process is a world of its own.

torchrun starts `size` processes that run the same program and tells each its number, the rank. Sums and flags travel
between them; what is added up is divided by nobody. Alone every method returns at once what it was given.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import Store, rendezvous  # type: ignore[attr-defined]

from fathom.errors import FathomError
from fathom.machine import pick_device
from fathom.processes import Process, this_process
from fathom.training.voice import MEETING, waited_in_vain
from fathom.training.watch import first_line, is_broken, sums, watched, watching
from fathom.words import counted

TIMEOUT = timedelta(minutes=10)  # of one sum: one that is killed, stopped or does nothing is noticed sooner


@dataclass(frozen=True)
class World:
    """Which of the processes this is. Methods are collective: all of them call the same ones in the same order."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among those of this machine

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

    def share(self, value: Any = None) -> Any:
        """The value of the first process, as JSON carries it, in all. The others wait for as long as it lives."""
        return value if self.size == 1 else watched().share(value)

    def gather(self, value: Any = None) -> list[Any]:
        """The values of all processes, as JSON carries them, in each."""
        return [value] if self.size == 1 else watched().gather(value)

    def _reduced(self, x: Tensor, how: dist.ReduceOp.RedOpType) -> Tensor:
        if self.size == 1:
            return x
        sums[0] += 1
        result = x.detach().clone()
        dist.all_reduce(result, how)
        return result


ALONE = World()  # one process, without a process group


@contextmanager
def joined(device: str = "auto") -> Iterator[World]:
    """The world of this process: as torchrun's environment says, or alone where there is none.

    device: as in TrainOptions. GPUs speak NCCL, and CPUs gloo. A group that exists already is used, and stays.
    FathomError: the environment is wrong, the processes do not find each other, or one of them is lost.
    """
    if dist.is_available() and dist.is_initialized():
        yield World(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", dist.get_rank())))
        return
    process = this_process()
    if not process.several:
        yield ALONE
        return
    world = World(process.rank, process.size, process.local_rank)
    place = world.device(device)
    require_devices(place, process)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    with ended_by_sigterm(), watching(process, met(process)) as watch:
        try:
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo",
                store=watch.store,
                rank=process.rank,
                world_size=process.size,
                timeout=TIMEOUT,
                device_id=place if place.type == "cuda" else None,
            )
            watch.start()
            yield world
        except RuntimeError as problem:
            raise (watch.lost(problem) if is_broken(problem) else problem) from problem
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


def require_devices(place: torch.device, process: Process) -> None:
    """FathomError where a process has no device of its own. All processes of the machine find the same."""
    if place.type == "mps":
        raise FathomError(
            f"{process.size} processes cannot share the GPU of a Mac; leave --nproc out, or add --device cpu"
        )
    n = torch.cuda.device_count() if place.type == "cuda" else process.local_size
    if n < process.local_size:
        raise FathomError(
            f"{process.local_size} processes on a machine with {counted(n, 'GPU')}; expected one for each at most: give"
            f" --nproc {n} (torchrun: --nproc-per-node {n}), or --device cpu"
        )


def met(process: Process) -> Store:
    """The store in which the processes find each other: torchrun's, or the one that the first process opens."""
    address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    try:
        store, _, _ = next(rendezvous("env://", timeout=MEETING))
    except RuntimeError as problem:
        if "EADDRINUSE" in str(problem):
            raise FathomError(
                f"port {port} of {address} is in use; give another: MASTER_PORT, or --master-port of torchrun"
            ) from None
        waited_in_vain[0] = True
        raise FathomError(
            f"rank {process.rank} finds nobody at {address}:{port} ({first_line(problem)}); MASTER_ADDR and MASTER_PORT"
            " are where rank 0 is reached, and a firewall must let it through"
        ) from None
    return store


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Within it SIGTERM ends this process as Ctrl-C does: it comes where another process has failed."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
