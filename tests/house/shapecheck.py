"""`Check.trace` watches a function run and compares every shape comment with the tensors of its line.

In a def, and for the later of several targets, h may be g. In a def with `...`, d is any width: here c will do, too.
"""

import sys
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from types import FrameType
from typing import Any

from torch import Tensor

from tests.house.promises import Promise, promises
from tests.house.sizes import fits


class Check:
    def __init__(self, paths: list[Path]) -> None:
        self.at = {str(path): promises(path) for path in paths}
        self.kept: set[Promise] = set()
        self.lies: list[str] = []
        self.now: dict[FrameType, Promise] = {}  # the assignment that a frame is at
        self.given: dict[FrameType, list[Any]] = {}  # what it was called with

    def trace(self, sizes: dict[str, int], run: Callable[[], None]) -> None:
        self.sizes = sizes  # they may change while it runs
        sys.settrace(lambda frame, *_: self.enter(frame) if frame.f_code.co_filename in self.at else None)
        try:
            run()
        finally:
            sys.settrace(None)

    def enter(self, frame: FrameType) -> Callable[..., Any]:
        self.given[frame] = [x for x in frame.f_locals.values() if isinstance(x, Tensor)]
        return self.step

    def step(self, frame: FrameType, event: str, value: object) -> Callable[..., Any]:
        table, ended = self.at[frame.f_code.co_filename], event == "return"
        here = table.get(frame.f_lineno)
        if frame in self.now and (ended or here is not self.now[frame]):
            self.compare(self.now[frame], [], self.now.pop(frame).values(frame))
        if here is not None and here.kind == "value" and event == "line":
            self.now[frame] = here
        if ended:
            given, made = self.given.pop(frame), table.get(frame.f_code.co_firstlineno)
            if here is not None and here.kind == "return":
                self.compare(here, [], [value])
            if made is not None and made.kind == "def":
                self.compare(made, given, [value])
        return self.step

    def compare(self, promise: Promise, given: list[Any], results: list[Any]) -> None:
        arguments, outcome = promise.sides  # one comment for several targets speaks of each
        pairs = [*zip(given, arguments), *zip_longest(results, outcome, fillvalue=outcome[-1])]
        pairs = [(tuple(x.shape), text) for x, text in pairs if isinstance(x, Tensor)]
        worlds = [self.sizes, self.sizes | {"h": self.sizes["g"]}, self.sizes | {"d": self.sizes["c"]}]
        if promise.kind == "def":
            true = any(all(fits(*pair, z) for pair in pairs) for z in worlds[: 2 + ("..." in promise.text)])
        else:
            true = all(any(fits(*pair, z) for z in worlds[: 1 + (i > 0)]) for i, pair in enumerate(pairs))
        self.kept |= {promise} if pairs else set()
        if not true:
            self.lies.append(f"{promise.where} says {promise.text}, is {pairs} where {self.sizes}")
