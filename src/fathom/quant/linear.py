"""A linear layer whose weights are kept packed: y = x W^T + b, with W unpacked for each product and then discarded.

Only x gets a gradient: the weights are frozen, and backward unpacks them again instead of keeping a float matrix from
forward (QLoRA, section 3, eq. 5).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.errors import FathomError
from fathom.model.ends import scaled
from fathom.quant.scheme import NumberFormat, Packed, Scheme, Shape, nbytes
from fathom.quant.schemes import FORMATS


class QuantLinear(nn.Module):
    """x (..., in) -> (..., out). Takes the place of an nn.Linear; its packed tensors are buffers."""

    def __init__(self, scheme: NumberFormat, shape: Shape, packed: Packed, bias: Tensor | None = None) -> None:
        """`packed`: as `scheme` packs a matrix (out, in). FathomError where it does not fit that shape."""
        super().__init__()
        self.scheme, self.shape = scheme, shape
        self.out_features, self.in_features = shape
        for field, tensor in checked(scheme, shape, packed).items():
            self.register_buffer(field, tensor)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    @classmethod
    def quantized(cls, weight: Tensor, bias: Tensor | None, scheme: Scheme) -> "QuantLinear":
        """The layer that does what an nn.Linear of this weight (out, in) does, as nearly as `scheme` can."""
        out, width = weight.shape
        return cls(scheme, (out, width), scheme.quantize(weight), bias)

    @property
    def packed(self) -> Packed:
        """All that is kept of the weights."""
        return {field: getattr(self, field) for field in self.scheme.fields}

    @property
    def nbytes(self) -> int:
        """Of the weights: numbers and scales."""
        return nbytes(self.packed)

    @property
    def weight(self) -> Tensor:
        """The matrix (out, in) in fp32, unpacked at each access."""
        return self.scheme.dequantize(self.packed, self.shape, torch.float32)

    def forward(self, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return Product.apply(x, bias, self)  # type: ignore[no-untyped-call]

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {self.scheme.name}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "QuantLinear":
        """The packed tensors move between devices, but `model.bfloat16()` does not round the scales."""

        def moved(x: Tensor) -> Tensor:
            new = fn(x)
            return new if isinstance(x, nn.Parameter) or new.dtype == x.dtype else x.to(new.device)

        return super()._apply(moved, recurse)  # type: ignore[no-untyped-call]


class QuantUnembed(QuantLinear):
    """The packed form of ScaledUnembed: logits times a constant, then softly capped."""

    def __init__(
        self, form: NumberFormat, shape: Shape, packed: Packed, bias: Tensor | None, scale: float, cap: float | None
    ) -> None:
        super().__init__(form, shape, packed, bias)
        self.scale, self.cap = scale, cap

    def forward(self, x: Tensor) -> Tensor:  # (..., d) -> (..., V)
        return scaled(super().forward(x), self.scale, self.cap)


class Product(torch.autograd.Function):
    """x W^T + b for packed W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, layer: QuantLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.scheme.dequantize(layer.packed, layer.shape, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad, (to_x, to_bias, _), layer = grads[0], ctx.needs_input_grad, ctx.layer
        x = toward_x(grad, list(layer.packed.values()), layer.scheme.name, layer.shape) if to_x else None
        bias = grad.flatten(0, -2).sum(0) if to_bias else None
        return x, bias, None


@torch.library.custom_op("fathom::toward_x", mutates_args=())
def toward_x(grad: Tensor, packed: Sequence[Tensor], scheme: str, shape: Sequence[int]) -> Tensor:
    """grad W (..., in). An operator that torch.compile cannot look into: it would keep forward's float W for it."""
    (out, width), kind = shape, FORMATS[scheme]
    return grad @ kind.dequantize(dict(zip(kind.fields, packed)), (out, width), grad.dtype)


@toward_x.register_fake
def _(grad: Tensor, packed: Sequence[Tensor], scheme: str, shape: Sequence[int]) -> Tensor:
    return grad.new_empty(*grad.shape[:-1], shape[1])


def checked(scheme: NumberFormat, shape: Shape, packed: Packed) -> Packed:
    """`packed` in the scheme's order, if it is what `scheme` makes of a matrix of this shape."""
    expected, actual = described(scheme.empty(shape)), described(packed)
    if actual != expected:
        raise FathomError(f"found {actual}; expected {expected} for {shape[0]} x {shape[1]} weights in {scheme.name};"
                          " pack them again")  # fmt: skip
    return {field: packed[field] for field in scheme.fields}


def described(packed: Packed) -> str:
    """Every field with its type and sizes, as one line."""
    return ", ".join(f"{name} {str(x.dtype)[6:]} {tuple(x.shape)}" for name, x in sorted(packed.items()))
