"""Measured figures with the limits of the machine, and as text."""

import statistics
from dataclasses import asdict, dataclass
from typing import Any

from fathom.bench.probes import Probes
from fathom.report.table import plain, table
from fathom.words import counted


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


# A benchmark's figures as rows of text. Does not print.

HEADS = ("what", "median", "", "from", "to", "limit", "reached", "limited by")
NUMBERS = (1, 3, 4, 5, 6)


def text(result: Result) -> str:
    """What ran, a row for each figure, the probes and the memory."""
    about, probes = result.about, result.probes
    kept = f", {about['quantize']}" if about["quantize"] else ""
    plainly = ", plain" if about["plain"] else ""
    lines = [
        f"{about['model']}: {counted(about['parameters'], 'parameter')}, {about['dtype']}{kept}{plainly};"
        f" {about['device']}, torch {about['torch']}",
        f"{describe(result)}; medians of {about['repeat']}",
        "",
        plain(table(HEADS, map(row, result.figures), NUMBERS)),
        f"peak memory {result.peak_mib:,.0f} MiB; this machine: memory read {probes.read_gb_s:,.1f} GB/s, copied"
        f" {probes.copy_gb_s:,.1f} GB/s; {probes.gemm}: {probes.gemm_gflop_s:,.0f} GFLOP/s",
    ]
    return "\n".join(lines)


def describe(result: Result) -> str:
    """The work in words."""
    about = result.about
    rows = f"{about['batch']} x " if about["batch"] > 1 else ""
    return {
        "decode": f"{rows}{counted(about['new'], 'token')} behind {about['prompt']:,} in the cache, which are random"
        " and not read",
        "prefill": f"a prompt of {rows}{counted(about['prompt'], 'token')}",
        "train": f"steps of {about['batch']} x {about['prompt']:,} tokens, all weights",
        "finetune": f"steps of {about['batch']} x {about['prompt']:,} tokens, LoRA of rank 8",
        "startup": f"from a file to the token after a prompt of {rows}{about['prompt']:,}",
    }[about["work"]]


def row(figure: Figure) -> tuple[str, ...]:
    """median, lowest, highest, limit, and how much of it is reached."""
    limit = "" if figure.limit is None else number(figure.limit)
    reached = "" if figure.percent is None else f"{figure.percent:.1f}%"
    spread = number(min(figure.rounds)), number(max(figure.rounds))
    return figure.name, number(figure.median), figure.unit, *spread, limit, reached, figure.limited_by


def number(value: float) -> str:
    """Three digits, or all of those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
