"""Everything that decides what a loss-versus-rank experiment is. Does not import torch."""

import math
from dataclasses import dataclass

from fathom.errors import FathomError
from fathom.train.options import TrainOptions


@dataclass(frozen=True, kw_only=True)
class RankOptions:
    """What `fathom svd MODEL --loss-vs-rank` can be told. All trainings share data, order, batch and steps."""

    data: str = "python-docs"  # as fathom finetune takes them: text, or .json and .jsonl records
    ranks: tuple[int, ...] = ()  # none: 0, 1, 2, 4, ... up to the largest a matrix can have
    minutes: float = 3.0  # for the whole experiment; decides the steps
    steps: int | None = None  # of every training; None: as many as the minutes allow
    seed: int = 1337  # order of the data, first weights of adapters
    batch_size: int = 8
    context_length: int | None = None  # None: the model's own, at most 128 for text and 512 for records
    learning_rate: float = 3e-3  # of all weights
    lora_learning_rate: float = 1.5e-2  # of adapters, which start at 0 and have further to go
    eval_windows: int = 64  # validation windows, the same for every loss
    keep: float = 0.9  # part of the improvement that the recommended ranks must keep
    device: str = "auto"

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
        """How weights are trained for this many steps: AdamW, the rate along a line to 0, nothing decayed."""
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
