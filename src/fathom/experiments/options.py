"""Options of the ladder: its text, rungs, seeds, and how every rung is trained.

The training settings are the same for every rung, chosen so that the trained bigram reaches the counted one and the
deepest rung still learns well. Does not import torch.
"""

import math
from dataclasses import dataclass

from fathom.errors import FathomError
from fathom.training.options import Dtype, TrainOptions
from fathom.training.presets import RUNG_SIZES, RUNG_TRAIN


@dataclass(frozen=True, kw_only=True)
class LadderOptions:
    """Options of `fathom ladder`."""

    data: str = "python-docs"  # text to learn: a file, a folder, a .jsonl file or the name of a corpus
    tokenizer: str = "char"  # tokenizer: char, byte, bpe:SIZE (learned from the text) or a tokenizer.json
    rungs: tuple[str, ...] = ()  # rungs to train, separated by commas, such as bigram,attention,gpt-mask; empty: all
    seed: int = 1337  # first seed; the others follow it
    seeds: int = 3  # runs of each model, each with its own seed
    minutes: float = 5.0  # minutes for the whole ladder, from which the steps follow
    steps: int | None = None  # steps of every rung; None: as many as the minutes allow

    context_length: int = RUNG_SIZES["context_length"]  # context length in tokens
    d_model: int = RUNG_SIZES["d_model"]  # width of the residual stream of every rung
    batch_size: int = RUNG_TRAIN["batch_size"]  # sequences per step
    learning_rate: float = RUNG_TRAIN["learning_rate"]  # AdamW's, for embeddings and norms
    muon_learning_rate: float = RUNG_TRAIN["muon_learning_rate"]  # for the matrices inside blocks
    eval_windows: int = 320  # validation windows, the same for every rung
    evaluations: int = 8  # points of each validation curve
    device: str = "auto"  # device to train on: auto, cpu, cuda or mps
    dtype: Dtype = "auto"  # number format of the computation

    def __post_init__(self) -> None:
        for name in ("seeds", "batch_size", "context_length", "d_model", "eval_windows", "evaluations"):
            if getattr(self, name) < 1:
                raise FathomError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.steps is not None and self.steps < 1:
            raise FathomError(f"steps is {self.steps}; it must be at least 1")
        if "" in self.rungs:
            raise FathomError("rungs has an empty name; expected names separated by commas, such as bigram,attention")
        if not 0 < self.minutes < math.inf:
            raise FathomError(f"minutes is {self.minutes}; it must be above 0, such as 5")
        self.training(self.seed, self.steps if self.steps is not None else 1)  # runs the checks of TrainOptions

    @property
    def all_seeds(self) -> range:
        return range(self.seed, self.seed + self.seeds)

    def training(self, seed: int, steps: int, curve: bool = False) -> TrainOptions:
        """How a rung is trained with this seed for this many steps; with a `curve` it is evaluated along the way."""
        own = {name: getattr(self, name) for name in ("batch_size", "learning_rate", "muon_learning_rate")}
        return TrainOptions(
            **RUNG_TRAIN | own,
            data=self.data,
            tokenizer=self.tokenizer,
            seed=seed,
            max_iters=steps,
            eval_interval=max(1, steps // self.evaluations) if curve else max(1, steps),
            eval_windows=self.eval_windows,
            device=self.device,
            dtype=self.dtype,
        )
