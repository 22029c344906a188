"""Passes that were run, the newest kept under a budget of bytes, and the one thread that runs models.

One thread: a model is looked into by one at a time, and two passes side by side would be no faster on the same cores.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from fathom.errors import FathomError
from fathom.glass import generation
from fathom.glass.panels import payload
from fathom.glass.passes import Pass, first_pass, pair
from fathom.serve.shelf import Shelf

T = TypeVar("T")
MOST_BYTES = 2 << 30  # of all recordings of all passes
MOST_PASSES = 16


class Gone(FathomError):
    """A pass that is no longer kept."""


class Desk:
    """What the server knows of the passes that pages have asked for."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.passes: OrderedDict[str, dict[str, Pass]] = OrderedDict()
        self.worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")

    async def work(self, function: Callable[..., T], *given: Any) -> T:
        """The function's result, computed in the thread that runs models."""

        def alone() -> T:
            with torch.no_grad():
                return function(*given)

        return await asyncio.get_running_loop().run_in_executor(self.worker, alone)

    async def steps(self, iterator: Iterator[T]) -> AsyncIterator[T]:
        """The items of an iterator, each computed in that thread when it is asked for; it is closed when nobody asks
        any more."""
        end = object()
        try:
            while (item := await self.work(next, iterator, end)) is not end:
                yield item
        finally:
            if close := getattr(iterator, "close", None):
                await self.work(close)

    def run(self, model: str, beside: str | None, prompt: str, seed: int) -> dict[str, Any]:
        """A new pass of a prompt through a model, and through the one beside it, as the page's frame shows it."""
        subject = self.shelf.open(model)
        if beside is None:
            sides = {"A": first_pass(subject, prompt, seed)}
        else:
            sides = dict(zip("AB", pair(subject, self.shelf.open(beside), prompt, seed)))
        id = "-".join(one.key for one in sides.values())
        sides = self.passes.pop(id, sides)
        shown = {side: one.side() for side, one in sides.items()}
        self.passes[id] = sides
        self.forget()
        return {"pass": id, "sides": shown}

    def find(self, id: str, side: str) -> Pass:
        """A pass that is kept. Gone: it is not; FathomError: it has no such side."""
        if id not in self.passes:
            raise Gone("this pass is no longer kept; run the prompt again")
        sides = self.passes[id]
        if side not in sides:
            raise FathomError(f"this pass has no side {side!r}; expected {' or '.join(sides)}")
        self.passes.move_to_end(id)
        return sides[side]

    def panel(self, name: str, id: str, side: str, values: Mapping[str, str]) -> bytes:
        """The bytes of a panel."""
        return payload(name, self.find(id, side), values)[0]

    def generate(self, id: str, side: str, values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The tokens that a pass goes on with, one after another."""
        return generation.stream(self.find(id, side), values)

    def forget(self) -> None:
        """Drop the oldest passes until the others fit."""
        while len(self.passes) > 1 and (len(self.passes) > MOST_PASSES or self.nbytes > MOST_BYTES):
            self.passes.popitem(last=False)

    @property
    def nbytes(self) -> int:
        every = [one for sides in self.passes.values() for one in sides.values()]
        return sum(x.nbytes for one in every for x in one.kept.values())
