"""The batch of a step as the model reads it: in micro-batches, on its device, prepared while the last one is computed.

Targets are counted and located here, on the host, so that no step has to wait for the device.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

import torch
from torch import Tensor

from fathom.data.batches import IGNORED, Batch, as_batch
from fathom.model.cache import NoCache, Packed

T = TypeVar("T")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass reads and what it is scored on."""

    ids: Tensor  # (b, t)
    targets: Tensor  # (n,) the tokens to predict
    places: Tensor | None  # (n,) where they are among the b * t; None: everywhere
    past: NoCache | None  # what each token sees, if not all before it


@dataclass(frozen=True)
class MicroBatches:
    """The whole batch of a step."""

    parts: tuple[MicroBatch, ...]
    count: Tensor  # () targets of all parts, at least 1
    n_tokens: int  # tokens read, without padding
    name: str  # where its rows come from, for errors


def micro_batches(rows: Tensor | Batch, size: int | None = None, device: torch.device = CPU) -> MicroBatches:
    """Windows (b, t + 1) or a batch as micro-batches of `size` rows, None: all, on this device."""
    batch = as_batch(rows)
    parts = tuple(_micro_batch(part, device) for part in batch.split(size or len(batch.ids)))
    count = max(1, sum(len(part.targets) for part in parts))
    return MicroBatches(parts, send(torch.tensor(count), device), batch.n_tokens, batch.name)


def _micro_batch(rows: Batch, device: torch.device) -> MicroBatch:
    targets = rows.targets.flatten()  # (b * t,)
    places = (targets != IGNORED).nonzero().flatten()  # (n,)
    past = Packed(send(rows.documents, device)) if rows.documents is not None and rows.shared else None
    if len(places) == len(targets):
        return MicroBatch(send(rows.ids, device), send(targets, device), None, past)
    return MicroBatch(send(rows.ids, device), send(targets[places], device), send(places, device), past)


def send(x: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; a GPU fetches it when its turn comes, and the host does not wait."""
    if device.type == "cuda" and x.is_cpu:
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


class Prefetch(Generic[T]):
    """`prepare(step)` for one step after another: while a step is computed, a thread prepares the next below `end`.

    `prepare` is a pure function of the step. What it raises for a step is raised by `at(step)`.
    """

    def __init__(self, prepare: Callable[[int], T], end: int) -> None:
        self.prepare, self.end, self.ahead = prepare, end, dict[int, Future[T]]()
        self.thread = ThreadPoolExecutor(1, "prefetch")

    def at(self, step: int) -> T:
        this = self.ahead.get(step) or self.thread.submit(self.prepare, step)
        self.ahead = {next: self.thread.submit(self.prepare, next) for next in (step + 1,) if next < self.end}
        return this.result()

    def __enter__(self) -> "Prefetch[T]":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.thread.shutdown(cancel_futures=True)
