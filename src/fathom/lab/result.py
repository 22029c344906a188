"""A loss-versus-rank experiment as values: its options, and its results, from which the report takes every number.

Losses are in nats per token on the same validation windows. Does not import torch.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fathom.errors import FathomError
from fathom.training.options import TrainOptions

if TYPE_CHECKING:
    from fathom.lab.spectra import RankSummary


@dataclass(frozen=True, kw_only=True)
class RankOptions:
    """Of `fathom svd MODEL --loss-vs-rank`. All trainings share data, order, batch and steps."""

    data: str = "python-docs"  # text or records, as fathom finetune takes them
    ranks: tuple[int, ...] = ()  # ranks to try, separated by commas; empty: 0, 1, 2, 4, ... up to the largest
    minutes: float = 3.0  # minutes for the whole experiment, from which the steps follow
    steps: int | None = None  # steps of every training; None: as many as the minutes allow
    seed: int = 1337  # seed of the order of the data and of the adapters' first weights
    batch_size: int = 8  # sequences per step
    context_length: int | None = None  # context length in tokens; None: the model's, at most 128 (records: 512)
    learning_rate: float = 3e-3  # peak learning rate of the full fine-tune
    lora_learning_rate: float = 1.5e-2  # peak learning rate of LoRA, whose adapters start at 0
    eval_windows: int = 64  # validation windows, the same for every loss
    keep: float = 0.9  # fraction of the improvement that the recommended ranks keep
    device: str = "auto"  # device to train on: auto, cpu, cuda or mps

    def __post_init__(self) -> None:
        for name in ("batch_size", "eval_windows"):
            if getattr(self, name) < 1:
                raise FathomError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 < self.minutes < math.inf:
            raise FathomError(f"minutes is {self.minutes}; it must be above 0, such as 3")
        if not 0 < self.keep < 1:
            raise FathomError(f"keep is {self.keep}; expected a part of the improvement between 0 and 1, such as 0.9")
        if any(rank < 0 for rank in self.ranks):
            raise FathomError(f"ranks are {', '.join(map(str, self.ranks))}; expected numbers from 0")
        self.training(self.steps or 1, self.learning_rate)  # its own checks
        self.training(1, self.lora_learning_rate)

    def training(self, steps: int, rate: float) -> TrainOptions:
        """AdamW for this many steps, with a learning rate that falls linearly to 0 and no weight decay."""
        return TrainOptions(
            data=self.data,
            seed=self.seed,
            max_iters=steps,
            batch_size=self.batch_size,
            learning_rate=rate,
            weight_decay=0.0,
            schedule="linear",
            final_fraction=0.0,
            eval_interval=steps,
            eval_windows=self.eval_windows,
            device=self.device,
            dtype="fp32",
            compile="off",
        )


@dataclass(frozen=True)
class Point:
    """The loss at one rank, and how many parameters an adapter of that rank has."""

    rank: int
    loss: float
    parameters: int


@dataclass(frozen=True)
class MatrixResult:
    """One matrix: its own spectrum, that of its change, and that of a random matrix of its shape."""

    name: str
    shape: tuple[int, ...]
    weight: "RankSummary"
    change: "RankSummary"
    chance: "RankSummary"
    relative: float  # |dW| / |W|, Frobenius
    adapted: bool  # whether LoRA was trained on it
    rank: int  # recommended

    @property
    def max_rank(self) -> int:
        return min(self.shape)


@dataclass(frozen=True)
class Recommended:
    """The cheapest ranks, matrix by matrix, whose truncated change keeps the requested part of the improvement."""

    keep: float
    loss: float
    parameters: int
    trained: float | None  # the loss of LoRA trained with these ranks


@dataclass(frozen=True)
class Text:
    """The data of the fine-tune."""

    name: str
    fingerprint: str  # sha256
    kind: str  # what the data are, in words
    n_train: int  # tokens to train on
    n_val: int
    rows: int  # on which every loss is measured


@dataclass(frozen=True)
class RankResult:
    """Everything that the report shows."""

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
    matrices: tuple[MatrixResult, ...]
    recommended: Recommended

    def kept(self, loss: float) -> float:
        """The part of the full fine-tune's improvement that a loss keeps: 0 the loss before, 1 the loss after."""
        return (self.base - loss) / (self.base - self.tuned)

    def enough(self, points: tuple[Point, ...]) -> Point | None:
        """The first of these ranks that keeps the requested part of the improvement."""
        return next((point for point in points if self.kept(point.loss) >= self.options.keep), None)
