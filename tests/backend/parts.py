"""Subclasses of the model's parts that compute something else: what is fused or native must never take them for their
parents."""

from typing import Any

from torch import Tensor

from fathom.model.attention import Attention
from fathom.model.norm import RMSNorm


class Shifted(RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class Sharper(Attention):
    def forward(self, x: Tensor, *rest: Any) -> Tensor:
        return super().forward(2 * x, *rest)
