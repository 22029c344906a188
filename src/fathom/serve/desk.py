"""Passes that were run, the newest kept under a budget of bytes, and the one thread that runs models.

One thread: a model is looked into by one at a time, and two passes side by side would be no faster on the same cores.
While nobody waits for it, it fills the panels of the newest pass as they are shown first, so that they are there when
they are asked for.
"""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from fathom.errors import FathomError
from fathom.glass import generation
from fathom.glass.panels import PANELS, payload
from fathom.glass.passes import Pass, first_pass, pair
from fathom.glass.subject import Subject
from fathom.glass.texts import tour_of
from fathom.serve.shelf import Shelf
from fathom.serve.worker import InTurn

T = TypeVar("T")
MOST_BYTES = 2 << 30  # of all recordings of all passes
MOST_PASSES = 16
WORK = 5e8  # parameters times tokens of a pass, up to which its panels are filled ahead
AHEAD = 20.0  # seconds at the most that the thread works ahead for a pass
QUIET = 0.25  # seconds without a request, after which it does
MOVING = ("runs",)  # panels that show what changes by itself: they are filled anew when they are asked for


class Gone(FathomError):
    """A pass that is no longer kept."""


class Desk:
    """What the server knows of the passes that pages have asked for."""

    def __init__(self, shelf: Shelf, turn: InTurn | None = None) -> None:
        """turn: shared with the engine, so that the two do not run models at the same time."""
        self.shelf, self.turn = shelf, turn or InTurn()
        self.passes: OrderedDict[str, dict[str, Pass]] = OrderedDict()
        self.worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self.most_ahead = WORK
        self.made: dict[tuple[str, str, str], bytes] = {}  # filled ahead, by pass, side and panel
        self.waiting = 0  # requests that the thread has not answered
        self.last = 0.0  # when it answered one
        self.ahead: asyncio.Task[None] | None = None

    async def work(self, function: Callable[..., T], *given: Any) -> T:
        """The function's result, computed in the thread that runs models."""
        self.waiting += 1
        try:
            return await self.computed(function, *given)
        finally:
            self.waiting -= 1
            self.last = time.monotonic()

    async def computed(self, function: Callable[..., T], *given: Any) -> T:
        def alone() -> T:
            with self.turn, torch.no_grad():
                return function(*given)

        return await asyncio.get_running_loop().run_in_executor(self.worker, alone)

    async def show(self, model: str, beside: str | None, prompt: str, seed: int) -> dict[str, Any]:
        """`run`, and then the panels of the pass ahead, where it is small."""
        shown = await self.work(self.run, model, beside, prompt, seed)
        if self.ahead is not None:
            self.ahead.cancel()
        sides = self.passes.get(shown["pass"], {})
        if sum(one.subject.card()["parameters"] * one.t for one in sides.values()) <= self.most_ahead:
            self.ahead = asyncio.create_task(self.fill_ahead(shown["pass"], list(sides)))
        return shown

    async def fill_ahead(self, id: str, sides: list[str]) -> None:
        """Fill the panels of a pass one by one while nobody waits, until it has taken AHEAD seconds."""
        took = 0.0
        for name in PANELS:
            for side in sides:
                while self.waiting or time.monotonic() - self.last < QUIET:
                    await asyncio.sleep(QUIET / 5)
                if took > AHEAD:
                    return
                began = time.monotonic()
                with contextlib.suppress(FathomError):  # said to who asks for the panel
                    await self.computed(self.make, name, id, side)
                took += time.monotonic() - began

    def make(self, name: str, id: str, side: str) -> None:
        """The first view of a panel, kept with its pass."""
        if (id, side, name) in self.made or id not in self.passes:
            return
        blob = payload(name, self.passes[id][side], {})[0]
        if name not in MOVING:
            self.made[id, side, name] = blob

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
        run = self.find(id, side)
        if not values and (known := self.made.get((id, side, name))):
            return known
        return payload(name, run, values)[0]

    def tour(self, id: str, place: Collection[str]) -> list[dict[str, Any]]:
        """The stops of the tour for the model of a pass."""
        return tour_of(self.find(id, "A"), place)

    def generate(self, id: str, side: str, values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The tokens that a pass goes on with, one after another."""
        return generation.stream(self.find(id, side), values)

    def forget(self) -> None:
        """Drop the oldest passes until the others fit."""
        while len(self.passes) > 1 and (len(self.passes) > MOST_PASSES or self.nbytes > MOST_BYTES):
            gone, _ = self.passes.popitem(last=False)
            self.made = {key: blob for key, blob in self.made.items() if key[0] != gone}

    @property
    def nbytes(self) -> int:
        every = [one for sides in self.passes.values() for one in sides.values()]
        return sum(x.nbytes for one in every for x in one.kept.values())


PROMPTS = ("Once upon a time, there was a little girl", "the cat sat the cat sat", "1 2 3 4 1 2 3 4")


def first_prompt(opened: Callable[[str], Subject], name: str, given: str | None = None) -> str:
    """The given text, or the first of PROMPTS that a model can read; "" where it can read none. FathomError: it cannot
    read what was given."""
    subject = opened(name)
    for text in [given] if given else PROMPTS:
        try:
            first_pass(subject, text)
        except FathomError:
            if given:
                raise
        else:
            return text
    return ""
