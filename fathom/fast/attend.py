"""Attention of a quickened model for many tokens: natively where nothing is padded, else in the model's own way."""

from torch import Tensor

from fathom.model.attention import attend_fused
from fathom.native.attention import attention


def attend_natively(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, dropout: float) -> Tensor:
    """`attend` of the model, for inference: shapes as there."""
    z = attention(q, k, v) if visible is None and dropout == 0 else None
    return attend_fused(q, k, v, visible, dropout) if z is None else z
