"""What packing does to weights: a block from floats to codes and back, which levels are used, the error over the size
of a block, the weights that are far from the others, and the loss with one layer packed at a time.

Dettmers et al. 2023 (QLoRA), section 3; Dettmers & Zettlemoyer 2023 (The case for 4-bit precision), on block sizes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.anatomy.cost import packed_bytes
from fathom.anatomy.swap import swap
from fathom.errors import FathomError
from fathom.inspect.identities import Residuals, named, off
from fathom.model.transformer import Transformer
from fathom.quant.linear import QuantLinear
from fathom.quant.model import WHERE
from fathom.quant.scheme import Packed, Scheme, nbytes
from fathom.quant.schemes import SCHEMES, scheme_named

SAMPLE = 1 << 20  # numbers of a matrix from which its error is measured
SIZES = (8, 16, 32, 64, 128, 256, 512)  # of a block


def packable(model: Transformer) -> dict[str, nn.Linear | QuantLinear]:
    """The linear layers of the blocks, by name: floats, or packed already."""
    return {
        name: part
        for name, part in model.named_modules()
        if name.startswith(WHERE) and isinstance(part, nn.Linear | QuantLinear)
    }


def weight_of(layer: nn.Linear | QuantLinear) -> Tensor:
    """The matrix (out, in) in fp32; of a packed layer what its codes stand for."""
    return layer.weight.detach().float()


@dataclass(frozen=True)
class Round:
    """A matrix on its way through a format: packed, and unpacked again."""

    scheme: Scheme
    weight: Tensor  # (out, in)
    packed: Packed
    unpacked: Tensor  # (out, in)

    @property
    def error(self) -> float:
        """rms(w - w') / rms(w)"""
        return relative(self.unpacked - self.weight, self.weight)

    @property
    def in_blocks(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of every block: weights (blocks, size), scale (blocks,), codes (blocks, size), unpacked (blocks, size)."""
        codes, scales = self.scheme.blocks(self.packed)
        return self.scheme.in_blocks(self.weight), scales, codes, self.scheme.in_blocks(self.unpacked)


def there_and_back(weight: Tensor, scheme: Scheme, nibbles_swapped: bool = False) -> Round:
    """A matrix (out, in) through a format. nibbles_swapped: read back with the two halves of every byte exchanged, as a
    reader would that has their order wrong."""
    packed = scheme.quantize(weight)
    read = dict(packed)
    if nibbles_swapped and packed["codes"].dtype == torch.uint8:
        read["codes"] = packed["codes"] << 4 | packed["codes"] >> 4
    shape = (weight.shape[0], weight.shape[1])
    return Round(scheme, weight.float(), packed, scheme.dequantize(read, shape, torch.float32))


def packing_is_stable(shown: Round) -> Residuals:
    """Packed again, what was unpacked has the same codes; each number is its level times its scale; and all bytes are
    those of codes and scales.

    Blocks whose scale comes back as 0 or negative, as NF4's rounded scales of tiny weights do (and bitsandbytes's),
    are packed as other codes, which the format itself implies.
    """
    scheme, (rows, width) = shown.scheme, shown.weight.shape
    codes, scales = scheme.blocks(shown.packed)
    again, _ = scheme.blocks(scheme.quantize(shown.unpacked))
    values = scheme.levels.to(scales.device)[codes] * scales[:, None]
    there = scheme.in_blocks(torch.ones_like(shown.weight))  # of a last block, where there are weights
    return named(
        "packing_is_stable",
        float(((again != codes) & (there > 0) & (scales > 0)[:, None]).sum()),
        off(values * there, scheme.in_blocks(shown.unpacked)),
        abs(float(nbytes(shown.packed) - packed_bytes(scheme.name, rows, width))),
    )


def relative(error: Tensor, weight: Tensor) -> float:
    """rms(error) / rms(weight); 0 where all weights are 0."""
    norm = weight.norm().item()
    return error.norm().item() / norm if norm else 0.0


def errors(weights: Mapping[str, Tensor], schemes: Sequence[str] = tuple(SCHEMES)) -> Tensor:
    """The relative error of every matrix in every format (matrices, formats); NaN where a format cannot hold it."""
    rows = [[error_in(weight, name) for name in schemes] for weight in weights.values()]
    return torch.tensor(rows).view(len(weights), len(schemes))


def error_in(weight: Tensor, scheme: str) -> float:
    """The relative error of a matrix in the format of this name; NaN where it cannot hold it."""
    try:
        return there_and_back(weight, scheme_named(scheme)).error
    except FathomError:
        return math.nan


def first_rows(weight: Tensor, most: int = SAMPLE) -> Tensor:
    """As many rows of a matrix as have at most so many numbers, and at least one."""
    return weight[: max(1, most // weight.shape[1])]


def errors_over_size(weight: Tensor, scheme: Scheme, sizes: Sequence[int] = SIZES) -> tuple[Tensor, Tensor]:
    """With blocks of other sizes: the relative error of a matrix, and the bits of a weight, scales and what fills the
    last block of a row included. NaN where blocks would be filled by more than half."""
    found = []
    for size in sizes:
        resized = type(scheme)(size)  # type: ignore[call-arg]  # a Protocol has no constructor
        if resized.in_blocks(weight).numel() > 2 * weight.numel():
            found.append((math.nan, math.nan))
            continue
        shown = there_and_back(weight, resized)
        found.append((shown.error, 8 * nbytes(shown.packed) / weight.numel()))
    error, bits = torch.tensor(found).T
    return error, bits


def levels_used(codes: Tensor, n_levels: int) -> Tensor:
    """How many of the codes are each level (levels,)."""
    return codes.flatten().bincount(minlength=n_levels)


def in_scales(weights: Tensor, scales: Tensor) -> Tensor:
    """Weights in units of the scale of their block (blocks, size); 0 where the scale is 0."""
    return torch.where(scales[:, None] == 0, 0.0, weights / scales[:, None])


def histogram(values: Tensor, low: float, high: float, bins: int) -> Tensor:
    """How many values are in each of so many equal steps from low to high; those beyond are in the outermost."""
    return torch.histc(values.clamp(low, high).flatten(), bins, low, high)


def crest(weights: Tensor) -> Tensor:
    """Of each block (blocks, size), how far its largest weight is from the others: max |w| / rms(w); 0 without any."""
    rms = weights.square().mean(-1).sqrt()
    return torch.where(rms == 0, 0.0, weights.abs().amax(-1) / rms)


def block_errors(weights: Tensor, unpacked: Tensor) -> Tensor:
    """Of each block (blocks, size): rms(w - w') / rms(w); 0 where all its weights are 0."""
    norm = weights.norm(dim=-1)
    return torch.where(norm == 0, 0.0, (unpacked - weights).norm(dim=-1) / norm)


def outliers(weight: Tensor, count: int) -> Tensor:
    """Where the largest weights of a matrix are: (count, 2) of row and column, the largest first."""
    places = weight.abs().flatten().topk(min(count, weight.numel())).indices
    return torch.stack((places // weight.shape[1], places % weight.shape[1]), -1)


@torch.no_grad()
def loss(model: Transformer, ids: Tensor) -> float:
    """Cross-entropy of each token of ids (b, t) given those before it, in nats."""
    return F.cross_entropy(model(ids)[:, :-1].float().transpose(1, 2), ids[:, 1:]).item()


def loss_with_packed(model: Transformer, ids: Tensor, names: Sequence[str], scheme: Scheme) -> float:
    """The loss where the layers of these names are packed, and all others stay as they are."""

    def packed(old: nn.Linear | QuantLinear) -> QuantLinear:
        return QuantLinear.quantized(weight_of(old), old.bias, scheme)

    with swap(model, {type(packable(model)[name]): packed for name in names}, names=names):
        return loss(model, ids)


def losses_one_by_one(model: Transformer, ids: Tensor, names: Sequence[str], scheme: Scheme) -> Tensor:
    """How much the loss grows where one layer alone is packed: (names,)."""
    before = loss(model, ids)
    return torch.tensor([loss_with_packed(model, ids, [name], scheme) - before for name in names])
