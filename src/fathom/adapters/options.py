"""The options of an adapter as one value. Does not import torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fathom.errors import FathomError

Ranks = tuple[tuple[str, int], ...]
Alphas = tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class LoraOptions:
    """`targets`, and the first word of each pair in `ranks` and `alphas`, are layers by our names or those of Hugging
    Face: `attn.q`, `mlp.*`, `q_proj`, `blocks.0.attn.q`; `all-linear` is every layer in the blocks.
    """

    rank: int = 8
    alpha: float | None = None  # None: 2 * rank, of each layer
    dropout: float = 0.0  # of the adapter's input, in training
    targets: tuple[str, ...] = ("all-linear",)
    rslora: bool = False  # scale by alpha / sqrt(rank) instead of alpha / rank (Kalajdzievski 2023)
    dora: bool = False  # train the norm of each row of W apart from its direction (Liu et al. 2024)
    init: Literal["default", "pissa"] = "default"  # pissa: start as the principal components of W (Meng et al. 2024)
    ranks: Ranks = ()  # other ranks for some layers; the last match wins
    alphas: Alphas = ()

    def __post_init__(self) -> None:
        if min(self.rank, *(rank for _, rank in self.ranks), self.rank) < 1:
            others = f", ranks {dict(self.ranks)}" if self.ranks else ""
            raise FathomError(f"rank is {self.rank}{others}; expected at least 1, such as 8")
        if not 0 < min(1 if self.alpha is None else self.alpha, *(alpha for _, alpha in self.alphas), 1) < math.inf:
            others = f", alphas {dict(self.alphas)}" if self.alphas else ""
            raise FathomError(f"alpha is {self.alpha}{others}; expected a number above 0, such as 16")
        if not 0 <= self.dropout < 1:
            raise FathomError(f"dropout is {self.dropout}; it is a probability from 0 to below 1")
        if not self.targets:
            raise FathomError("an adapter without targets; give names of layers, or all-linear")
        if self.init not in ("default", "pissa"):
            raise FathomError(f"init is {self.init!r}; choose default or pissa")
        if self.dora and self.init == "pissa":
            raise FathomError("dora and init pissa are mutually exclusive; choose one")

    @property
    def scale(self) -> float:
        """What b a is multiplied by, in layers of the common rank."""
        return lora_scale(self.rank, self.alpha, self.rslora)

    def for_layer(self, patterns: Sequence[str]) -> tuple[int, float]:
        """Rank and scale of a layer that these patterns of `ranks` and `alphas` match."""
        rank = next((rank for pattern, rank in reversed(self.ranks) if pattern in patterns), self.rank)
        alpha = next((alpha for pattern, alpha in reversed(self.alphas) if pattern in patterns), self.alpha)
        return rank, lora_scale(rank, alpha, self.rslora)


def lora_scale(rank: int, alpha: float | None, rslora: bool) -> float:
    """alpha / rank, or alpha / sqrt(rank). alpha None: 2 * rank."""
    return (2.0 * rank if alpha is None else alpha) / (rank**0.5 if rslora else rank)
