"""Optimizers, one file each. A file NAME.py with an `OPTIMIZER` in it is the value NAME of `--train.optimizer`.

adamw        AdamW as torch computes it
adamw8bit    AdamW that keeps its moments in 8 bits
muon         Muon: orthogonalized momentum, for matrices
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.optim import Optimizer

NAMES = tuple(sorted(module.name for module in iter_modules(__path__)))


@dataclass(frozen=True)
class OptimizerKind:
    """What training needs to know of an optimizer."""

    build: Callable[..., "Optimizer"]  # of (parameter groups as torch takes them, device, and its options by name)
    options: tuple[str, ...]  # fields of TrainOptions
    state_bytes: Callable[[int], int]  # of a tensor of so many numbers
    learning_rate: str = "learning_rate"  # the field of TrainOptions that holds the peak learning rate of matrices
    weight_decay: str = "weight_decay"  # and the one with their decay
    scratch_bytes: Callable[[Sequence[int]], int] = lambda sizes: 0  # needed during a step, for matrices of these sizes
    exchanges: bool = False  # whether processes that hold rows of a matrix send each other all of it, there and back
    trains_adapters: bool = True  # whether the two factors of an adapter are matrices for it


def optimizer_named(name: str) -> OptimizerKind:
    """The optimizer of that name, one of NAMES. Imports torch."""
    kind: OptimizerKind = import_module(f"{__name__}.{name}").OPTIMIZER
    return kind
