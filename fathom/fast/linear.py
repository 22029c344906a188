"""A linear layer for inference whose weights lie in panels: y = x W^T + b by native code.

Takes the place of an nn.Linear or of a packed one, from outside. Gives no gradients. Does not know the model.
"""

import torch
from torch import Tensor, nn

from fathom.errors import FathomError
from fathom.native.panels import Panels

FLOATS = (torch.float32, torch.bfloat16)


class PanelLinear(nn.Module):
    """x (..., in), fp32 or bf16 -> (..., out). Float weights multiply x as it is, packed ones x in 8 bits."""

    def __init__(self, panels: Panels) -> None:
        super().__init__()
        self.panels = panels
        self.out_features, self.in_features = panels.shape

    @property
    def weight(self) -> Tensor:
        """The matrix (out, in), worked out for whoever asks."""
        return self.panels.matrix()

    @property
    def bias(self) -> Tensor | None:
        return self.panels.bias

    @property
    def nbytes(self) -> int:
        """Of the weights: numbers and scales."""
        return self.panels.nbytes

    def forward(self, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        if x.dtype not in FLOATS:
            raise FathomError(f"found x in {x.dtype}; expected fp32 or bf16; load the model in one of them")
        return self.panels.product(x.detach())

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {self.panels.kind} in panels"
