"""Linear layers for few rows on a GPU: hardly any arithmetic, so each weight is read once, at memory speed.

A library's matrix product is tuned for many rows and reaches two thirds of that, and 4-bit weights would first become a
whole float matrix in memory. With more than FEW rows the layers compute as they did before.
"""

import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.anatomy.swap import parts, swap
from fathom.families.plain import computes_as
from fathom.model.transformer import Transformer
from fathom.quant.integer import GROUP, Int4
from fathom.quant.linear import QuantLinear

FEW = 4  # rows of x; each reads the weights again


@torch.library.custom_op("fathom::matvec", mutates_args=())
def matvec(x: Tensor, weight: Tensor) -> Tensor:
    """x (b, in), weight (out, in) -> (b, out). On a CUDA device a Triton kernel computes the same."""
    return F.linear(x.float(), weight.float()).to(x.dtype)


@torch.library.custom_op("fathom::matvec_int4", mutates_args=())
def matvec_int4(x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """x (b, in) and a matrix as Int4 packs it -> (b, out)."""
    shape = (len(codes), codes.shape[1] * GROUP)
    weight = Int4().dequantize({"codes": codes, "scales": scales}, shape, torch.float32)
    return F.linear(x.float(), weight).to(x.dtype)


@matvec.register_kernel("cuda")
def _(x: Tensor, weight: Tensor) -> Tensor:
    from fathom.backend.matvec_triton import floats

    out, width = weight.shape
    y = x.new_empty(len(x), out)
    floats[(out, len(x))](x, weight, y, width, ROWS=1, BLOCK=4096, num_warps=4)
    return y


@matvec_int4.register_kernel("cuda")
def _(x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    from fathom.backend.matvec_triton import four_bits

    out, groups, _ = codes.shape
    y = x.new_empty(len(x), out)
    four_bits[(out, len(x))](x, codes, scales, y, groups, ROWS=1, BLOCK=128, num_warps=4)
    return y


@matvec.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(len(x), len(weight))


@matvec_int4.register_fake
def _(x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    return x.new_empty(len(x), len(codes))


@computes_as(nn.Linear)
class MatvecLinear(nn.Linear):
    """nn.Linear that reads its weights once where x has few rows."""

    def forward(self, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        if x.shape[:-1].numel() > FEW:
            return super().forward(x)
        y = matvec(x.flatten(0, -2).contiguous(), self.weight).unflatten(0, x.shape[:-1])
        return y if self.bias is None else y + self.bias


@computes_as(nn.Linear)
class MatvecInt4(QuantLinear):
    """QuantLinear in int4 that reads its packed weights once, and unpacks no matrix, where x has few rows."""

    def forward(self, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        if x.shape[:-1].numel() > FEW:
            return super().forward(x)
        packed = self.packed
        y = matvec_int4(x.flatten(0, -2).contiguous(), packed["codes"], packed["scales"]).unflatten(0, x.shape[:-1])
        return y if self.bias is None else y + self.bias.to(y.dtype)


def use_matvec(model: Transformer) -> str:
    """Exchange the linear layers that the kernels can read; why none was, or "". Where a kernel cannot be compiled for
    this card the model stays as it was."""
    if model.embed.weight.is_cuda and importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    names = [name for name in parts(model, nn.Linear, QuantLinear) if readable(model.get_submodule(name))]
    swapped = swap(model, {nn.Linear: MatvecLinear, QuantLinear: MatvecInt4}, names=names)
    try:
        for layer in {type(layer): layer for layer in map(model.get_submodule, names)}.values():
            layer(model.embed.weight.new_zeros(1, layer.in_features))  # type: ignore[call-overload]
    except Exception as error:  # whatever a compiler of kernels raises
        swapped.undo()
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def readable(part: nn.Module) -> bool:
    """Whether the kernels can read the weights of this layer."""
    if isinstance(part, QuantLinear):
        return isinstance(part.scheme, Int4) and part.in_features % GROUP == 0
    assert isinstance(part, nn.Linear)
    return part.weight.is_floating_point() and part.weight.is_contiguous()
