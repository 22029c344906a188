"""The batch of a step as the model reads it: in micro-batches, on its device; on a GPU the next one prepared meanwhile.

Targets are counted and located here, on the host, so that no step has to wait for the device.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from fathom.data.batches import IGNORED, Batch, as_batch
from fathom.model.cache import NoCache, Packed
from fathom.training.world import ALONE, World

T = TypeVar("T")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass reads and what it is scored on."""

    ids: Tensor  # (b, t)
    targets: Tensor  # (n,) the tokens to predict
    places: Tensor | None  # (n,) where they are among the b * t; None: everywhere
    past: NoCache | None  # what each token sees, if not all before it
    read: Tensor | None = None  # (m,) where the tokens are among the b * t; None: everywhere, without padding
    keys: Tensor | None = None  # (b,) from which the dropout of its rows follows

    @property
    def n_tokens(self) -> int:
        """Tokens read, without padding."""
        return self.ids.numel() if self.read is None else len(self.read)


@dataclass(frozen=True)
class MicroBatches:
    """The batch of a step. Several processes have some parts each; the counts are of the whole batch."""

    parts: tuple[MicroBatch, ...]
    count: Tensor  # () targets, at least 1
    n_tokens: int  # tokens read, without padding
    name: str  # where its rows come from, for errors


def micro_batches(
    rows: Tensor | Batch,
    size: int | None = None,
    device: torch.device = CPU,
    world: World = ALONE,
    keys: Tensor | None = None,
) -> MicroBatches:
    """Windows (b, t + 1) or a batch as micro-batches of `size` rows, None: all, on this device.

    Of several processes each takes every so many-th of those that one process would have, or all it has as one.
    keys: (b,) of the rows, for dropout.
    """
    batch = as_batch(rows)
    size = rows_at_once(len(batch.ids), size, world)
    parts = tuple(_micro_batch(part, device) for part in batch.split(size)[world.rank :: world.size])
    if keys is not None:
        own = keys.split(size)[world.rank :: world.size]
        parts = tuple(replace(part, keys=send(each, device)) for part, each in zip(parts, own))
    count = max(1, int((batch.targets != IGNORED).sum()))
    return MicroBatches(parts, send(torch.tensor(count), device), batch.n_tokens, batch.name)


def rows_at_once(rows: int, size: int | None, world: World) -> int:
    """How many of a batch's rows go through the model at a time: `size`, or what makes as many passes in each of
    several processes; None: as many as possible."""
    if world.size == 1:
        return size or rows
    own = rows // world.size
    return max(n for n in range(1, min(size or own, own) + 1) if own % n == 0)


def _micro_batch(rows: Batch, device: torch.device) -> MicroBatch:
    targets = rows.targets.flatten()  # (b * t,)
    places = (targets != IGNORED).nonzero().flatten()  # (n,)
    past = Packed(send(rows.documents, device)) if rows.documents is not None and rows.shared else None
    padded = rows.documents is not None and bool((rows.documents < 0).any())
    read = (
        send((rows.documents.flatten() >= 0).nonzero().flatten(), device)
        if padded and rows.documents is not None
        else None
    )
    if len(places) == len(targets):
        return MicroBatch(send(rows.ids, device), send(targets, device), None, past, read)
    return MicroBatch(send(rows.ids, device), send(targets[places], device), send(places, device), past, read)


def send(x: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; a GPU fetches it when its turn comes, and the host does not wait."""
    if device.type == "cuda" and x.is_cpu:
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


@contextmanager
def prefetching(prepare: Callable[[int], T], end: int, device: torch.device) -> Iterator[Callable[[int], T]]:
    """`prepare(step)` for one step after another: on a GPU a thread prepares the next one below `end` meanwhile.

    `prepare` is a pure function of the step; what it raises for a step is raised when that step is asked for. A CPU
    prepares and computes with the same cores: there a thread would cost a step of 4 ms another 0.3 ms.
    """
    if device.type == "cpu":
        yield prepare
        return
    ahead = dict[int, Future[T]]()
    with ThreadPoolExecutor(1, "prefetch") as thread:

        def at(step: int) -> T:
            this = ahead.pop(step, None) or thread.submit(prepare, step)
            ahead.clear()
            if step + 1 < end:
                ahead[step + 1] = thread.submit(prepare, step + 1)
            return this.result()

        yield at
