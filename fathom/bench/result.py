"""What was measured, beside what the machine allows. Does not measure and does not print."""

import statistics
from dataclasses import asdict, dataclass
from typing import Any

from fathom.bench.probes import Probes


@dataclass(frozen=True)
class Figure:
    """The value of each round. `limit`, in the same unit, is what the machine would allow; None: nothing to hold it to.

    unit: tok/s, of which more is better, or s, of which less is.
    """

    name: str
    unit: str
    rounds: tuple[float, ...]
    limit: float | None = None
    limited_by: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def percent(self) -> float | None:
        """How much of the limit is reached."""
        if self.limit is None:
            return None
        return 100 * (self.limit / self.median if self.unit == "s" else self.median / self.limit)

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "median": self.median, "percent": self.percent}


@dataclass(frozen=True)
class Result:
    """One call of `fathom bench`. peak_mib: of the process (on a GPU: of what torch held there), before the probes."""

    about: dict[str, Any]  # what ran, where and how
    figures: tuple[Figure, ...]
    probes: Probes
    peak_mib: float

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        figures = [figure.plain() for figure in self.figures]
        return {**self.about, "figures": figures, "probes": asdict(self.probes), "peak_mib": self.peak_mib}
