"""A linear layer for inference whose weights are in panels: y = x W^T + b by native code. Gives no gradients."""

from typing import Any

import torch
from torch import Tensor, nn

from fathom.errors import FathomError
from fathom.families.plain import computes_as
from fathom.model.ends import ScaledUnembed, scaled
from fathom.native.panels import Panels

FLOATS = (torch.float32, torch.bfloat16)


@computes_as(nn.Linear)
class PanelLinear(nn.Module):
    """x (..., in), fp32 or bf16 -> (..., out). Float weights multiply x as it is, packed ones x in 8 bits."""

    def __init__(self, panels: Panels, bias: Tensor | None) -> None:
        """`bias` as the layer had it, which `panels` hold in fp32."""
        super().__init__()
        self.panels = panels
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.version = version(self.bias)  # of `bias`, when `panels` last had its values
        self.out_features, self.in_features = panels.shape

    def refresh(self) -> None:
        """Let the panels follow a bias that was changed in place."""
        if self.bias is not None and (now := version(self.bias)) != self.version:
            copy_into(self.panels.bias, self.bias)
            self.version = now

    @property
    def weight(self) -> Tensor:
        """The matrix (out, in), computed from the panels."""
        return self.panels.matrix()

    @property
    def nbytes(self) -> int:
        """Of the weights: numbers and scales."""
        return self.panels.nbytes

    def forward(self, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        if x.dtype not in FLOATS or not x.is_cpu:
            raise FathomError(
                f"found x in {x.dtype} on {x.device.type}; expected fp32 or bf16 on a CPU; load the model in one"
            )
        if x.shape[-1:] != (self.in_features,):
            raise FathomError(f"found x {tuple(x.shape)}; expected (..., {self.in_features})")
        if x.requires_grad and torch.is_grad_enabled():
            raise FathomError("a layer in panels gives no gradient; use the plain model, or torch.no_grad()")
        self.refresh()
        return self.panels.product(x)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """The matrix, as `weight` where it is as it was loaded, and as `panels` where it was packed."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + ("weight" if self.panels.scales is None else "panels")] = self.weight

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.version = -1  # a copied tensor counts its changes from 0

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {self.panels.kind} in panels"


@computes_as(ScaledUnembed)
class PanelUnembed(PanelLinear):
    """Logits times a constant, then softly capped, as ScaledUnembed has them."""

    def __init__(self, panels: Panels, bias: Tensor | None, scale: float, cap: float | None) -> None:
        super().__init__(panels, bias)
        self.scale, self.cap = scale, cap

    def forward(self, x: Tensor) -> Tensor:  # (..., d) -> (..., V)
        """Row by row where they are capped: torch computes tanh otherwise where a tensor ends, and a row's numbers are
        to be the same whatever other rows there are."""
        y = super().forward(x)
        if self.cap is None:
            return scaled(y, self.scale, None)
        for row in y.view(-1, y.shape[-1]):
            row.copy_(scaled(row, self.scale, self.cap))
        return y


def version(x: Tensor | None) -> int:
    """How often a tensor was changed in place; one made in inference mode does not count."""
    return 0 if x is None or x.is_inference() else x._version


def copy_into(copy: Tensor | None, source: Tensor) -> None:
    """Write values to where native code reads them."""
    assert copy is not None
    if copy.data_ptr() != source.data_ptr():
        with torch.inference_mode():  # the copy may have been made in it, and is then closed to others
            copy.copy_(source)
