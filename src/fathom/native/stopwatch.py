"""Time as the user of a model sees it: compiling native code, done once on a machine, is not counted as its speed."""

import time

from fathom.native.build import compiled


class Stopwatch:
    """Seconds from lap to lap, without those in which native code was compiled."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.began, self.compiled = time.perf_counter(), sum(compiled.values())

    def lap(self) -> float:
        """Seconds since the last lap or start."""
        began, before = self.began, self.compiled
        self.start()
        return max(0.0, self.began - began - (self.compiled - before))
