"""What a run has measured of what was planned: parameters, peak memory, time. Does not import torch."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path

from fathom.errors import FathomError
from fathom.formats.detect import open_model
from fathom.formats.run import CHECKPOINTS, METRICS
from fathom.formats.safetensors_file import open_safetensors
from fathom.training.events import read_metrics

ADAPTER = "trained.safetensors"
WARM = 2  # first steps of a process, which take longer


@dataclass(frozen=True)
class Measured:
    """Of a run; None where it has recorded nothing of the kind. learned: numbers in its checkpoint."""

    learned: int | None
    peak_bytes: int | None
    seconds: float | None  # of a step, the median
    tokens_per_second: float | None  # of steps alone, without evaluations and samples
    steps: int


def measured(folder: Path) -> Measured:
    """What the small files of a run say, and the header of its newest checkpoint."""
    lines = read_metrics(folder / METRICS)
    steps = [line for line in lines if "loss" in line]
    pairs = [(one, two) for one, two in pairwise(steps) if one["step"] >= WARM and two["step"] == one["step"] + 1]
    evaluated = {line["step"] for line in lines if "val_loss" in line or "sample" in line}
    clean = [(one, two) for one, two in pairs if one["step"] not in evaluated]
    took = [two["seconds"] - one["seconds"] for one, two in clean]
    seconds = statistics.median(took) if took else None
    tokens = statistics.median(two["tokens"] - one["tokens"] for one, two in clean) if clean else 0
    peaks = [line["peak_bytes"] for line in lines if line.get("peak_bytes")]
    return Measured(
        learned=learned(folder),
        peak_bytes=max(peaks, default=None),
        seconds=seconds,
        tokens_per_second=tokens / seconds if seconds else None,
        steps=max((line["step"] for line in lines), default=0),
    )


def learned(folder: Path) -> int | None:
    """Numbers in what the run has saved: all weights, or those of the adapter."""
    adapters = sorted((folder / CHECKPOINTS).glob(f"step-*/{ADAPTER}"))
    try:
        tensors = open_safetensors(adapters[-1]) if adapters else open_model(folder).tensors
    except FathomError:
        return None
    return sum(prod(stored.shape) for stored in tensors.values())
