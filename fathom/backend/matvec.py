"""Linear layers for few rows on a GPU: no arithmetic to speak of, so each weight is read once, at memory speed.

A library's matrix product is made for many rows and reaches two thirds of that, and 4 bits would first become a whole
float matrix in memory. The layers are exchanged from outside; more rows, or no triton, take the way they took before.
"""

import importlib.util
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.model.transformer import Transformer
from fathom.quant.integer import GROUP, Int4
from fathom.quant.linear import QuantLinear

Way = tuple[int, int, int]

FEW = 4  # rows of x; each reads the weights anew
# Ways to divide the work: rows of W and numbers of each (in 4 bits: groups) that a program takes at once, its warps.
FLOATS: tuple[Way, ...] = ((1, 4096, 4), (2, 2048, 4), (2, 4096, 8), (4, 1024, 4))
FOUR_BITS: tuple[Way, ...] = ((1, 128, 4), (2, 64, 4), (2, 128, 4), (4, 64, 4))


@torch.library.custom_op("fathom::matvec", mutates_args=())
def matvec(x: Tensor, weight: Tensor, way: Sequence[int]) -> Tensor:
    """x (b, in), weight (out, in) -> (b, out). This is its meaning; on a CUDA device it is a kernel of its own."""
    return F.linear(x.float(), weight.float()).to(x.dtype)


@torch.library.custom_op("fathom::matvec_int4", mutates_args=())
def matvec_int4(x: Tensor, codes: Tensor, scales: Tensor, way: Sequence[int]) -> Tensor:
    """x (b, in) and a matrix as Int4 packs it -> (b, out)."""
    shape = (len(codes), codes.shape[1] * GROUP)
    weight = Int4().dequantize({"codes": codes, "scales": scales}, shape, torch.float32)
    return F.linear(x.float(), weight).to(x.dtype)


@matvec.register_kernel("cuda")
def _(x: Tensor, weight: Tensor, way: Sequence[int]) -> Tensor:
    from fathom.backend.matvec_triton import floats

    (out, width), (rows, block, warps) = weight.shape, way
    y = x.new_empty(len(x), out)
    floats[(out // rows, len(x))](x, weight, y, width, ROWS=rows, BLOCK=block, num_warps=warps)
    return y


@matvec_int4.register_kernel("cuda")
def _(x: Tensor, codes: Tensor, scales: Tensor, way: Sequence[int]) -> Tensor:
    from fathom.backend.matvec_triton import four_bits

    (out, groups, _), (rows, block, warps) = codes.shape, way
    y = x.new_empty(len(x), out)
    four_bits[(out // rows, len(x))](x, codes, scales, y, groups, ROWS=rows, BLOCK=block, num_warps=warps)
    return y


@matvec.register_fake
def _(x: Tensor, weight: Tensor, way: Sequence[int]) -> Tensor:
    return x.new_empty(len(x), len(weight))


@matvec_int4.register_fake
def _(x: Tensor, codes: Tensor, scales: Tensor, way: Sequence[int]) -> Tensor:
    return x.new_empty(len(x), len(codes))


class FewRows(nn.Module):
    """A linear layer that reads its weights once where x has few rows, and is `base` where it has more."""

    def __init__(self, base: nn.Linear | QuantLinear) -> None:
        super().__init__()
        self.base = base
        self.packed = isinstance(base, QuantLinear)
        self.ways = [way for way in (FOUR_BITS if self.packed else FLOATS) if base.out_features % way[0] == 0]
        self.way: Way = self.ways[0]

    def forward(self, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        if x.shape[:-1].numel() > FEW:
            return self.base(x)
        y = self.product(x.flatten(0, -2)).unflatten(0, x.shape[:-1])
        return y if self.base.bias is None else y + self.base.bias

    def product(self, x: Tensor) -> Tensor:  # (b, in) -> (b, out)
        if self.packed:
            return matvec_int4(x.contiguous(), self.base.codes, self.base.scales, self.way)
        return matvec(x.contiguous(), self.base.weight, self.way)

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias


def admits(part: nn.Module) -> bool:
    """Whether the kernels can read this layer."""
    if isinstance(part, QuantLinear):
        return isinstance(part.scheme, Int4) and part.in_features % GROUP == 0
    return type(part) is nn.Linear and part.weight.is_floating_point() and part.weight.is_contiguous()


def few_rows(model: Transformer) -> list[str]:
    """Exchange all layers that the kernels can read; their names. Nothing where there is no triton."""
    if importlib.util.find_spec("triton") is None:
        return []
    names = [name for name, part in model.named_modules() if admits(part)]
    for name in names:
        model.set_submodule(name, FewRows(model.get_submodule(name)))  # type: ignore[arg-type]
    return names


def choose_ways(model: Transformer, milliseconds: Callable[[Callable[[], object]], float]) -> dict[str, float]:
    """Time every way to divide the work on one layer of each shape, and let all of its shape take the fastest.

    Returns bytes of weights per second by shape, as "4096 x 11008".
    """
    speeds: dict[str, float] = {}
    chosen: dict[tuple[int, int], Way] = {}
    for part in (part for part in model.modules() if isinstance(part, FewRows)):
        shape = (part.base.out_features, part.base.in_features)
        if shape not in chosen:
            times = {way: timed(part, way, milliseconds) for way in part.ways}
            chosen[shape] = min(times, key=lambda way: times[way])
            nbytes = part.base.nbytes if isinstance(part.base, QuantLinear) else part.base.weight.nbytes
            speeds[f"{shape[0]} x {shape[1]}"] = 1000 * nbytes / times[chosen[shape]]
        part.way = chosen[shape]
    return speeds


@torch.no_grad()
def timed(part: FewRows, way: Way, milliseconds: Callable[[Callable[[], object]], float]) -> float:
    part.way = way
    device = part.base.scales.device if part.packed else part.base.weight.device
    dtype = torch.bfloat16 if part.packed else part.base.weight.dtype
    x = torch.randn(1, part.base.in_features, dtype=dtype, device=device)  # type: ignore[arg-type]
    return milliseconds(lambda: part.product(x))
