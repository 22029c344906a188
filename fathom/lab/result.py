"""What a loss-versus-rank experiment has measured, as one JSON file from which the report takes every number.

Losses are in nats per token on the same validation windows. Does not train.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fathom.atomic import atomic_write
from fathom.lab.options import RankOptions
from fathom.lab.spectra import Numbers


@dataclass(frozen=True)
class Point:
    """The loss at one rank, and how many numbers an adapter of that rank has."""

    rank: int
    loss: float
    parameters: int


@dataclass(frozen=True)
class Change:
    """One matrix: its own spectrum, that of its change, and what chance would give in its shape."""

    name: str
    shape: tuple[int, ...]
    weight: Numbers
    change: Numbers
    chance: Numbers
    relative: float  # |dW| / |W|, Frobenius
    adapted: bool  # whether LoRA was trained on it
    rank: int  # recommended

    @property
    def full(self) -> int:
        return min(self.shape)


@dataclass(frozen=True)
class Recommended:
    """The cheapest ranks, matrix by matrix, whose truncated change keeps the wanted part of the improvement."""

    keep: float
    loss: float
    parameters: int
    trained: float | None  # the loss of LoRA trained with these ranks


@dataclass(frozen=True)
class Text:
    """What was learned from."""

    name: str
    fingerprint: str  # sha256
    kind: str  # what the data are, in words
    n_train: int  # tokens that are learned
    n_val: int
    rows: int  # that every loss is measured on


@dataclass(frozen=True)
class RankResult:
    """Everything a report needs."""

    model: str
    options: RankOptions
    text: Text
    machine: str
    steps: int
    parameters: int  # of the model, all trained in the full fine-tune
    seconds: float
    base: float  # loss before
    tuned: float  # loss after the full fine-tune
    change: tuple[Point, ...]  # W + the best rank r of dW
    weight: tuple[Point, ...]  # the best rank r of W + dW
    chance: tuple[Point, ...]  # W + dW seen along r random directions
    lora: tuple[Point, ...]  # trained at rank r
    matrices: tuple[Change, ...]
    recommended: Recommended

    def kept(self, loss: float) -> float:
        """The part of the full fine-tune's improvement that a loss stands for: 0 before, 1 after."""
        return (self.base - loss) / (self.base - self.tuned)

    def enough(self, points: tuple[Point, ...]) -> Point | None:
        """The first of these ranks that keeps the wanted part of the improvement."""
        return next((point for point in points if self.kept(point.loss) >= self.options.keep), None)


def write_json(value: Any, path: Path) -> Path:
    """Plain values as JSON, whole or as it was before."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
    return path
