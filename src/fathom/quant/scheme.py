"""The interface of a number format for weights: pack a matrix into a few small tensors, and unpack it.

The packed tensors are all that is kept; their names, shapes and dtypes follow from the shape of the matrix alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, TypeAlias

from fathom.errors import FathomError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Packed: TypeAlias = dict[str, Tensor]  # field -> tensor
else:
    from fathom.lazy import torch

    Packed = dict


Shape: TypeAlias = tuple[int, int]  # of a weight: out, in


class NumberFormat(Protocol):
    """What packed matrices can be used as."""

    @property
    def name(self) -> str:
        """As users type it."""

    @property
    def bits(self) -> float:
        """Per parameter, scales included, of a matrix without padding."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the packed tensors."""

    def dequantize(self, packed: Mapping[str, Tensor], shape: Shape, dtype: torch.dtype) -> Tensor:
        """The matrix (out, in), computed in fp32 and rounded to `dtype` at the end."""

    def rows(self, packed: Mapping[str, Tensor], width: int, rows: Tensor) -> Packed | None:
        """The packed tensors of these rows of a matrix, in this order; None where rows share what cannot be split."""

    def empty(self, shape: Shape, device: torch.device | str = "meta") -> Packed:
        """Uninitialised packed tensors of the right shapes and dtypes for a matrix of `shape`."""


class Scheme(NumberFormat, Protocol):
    """A number format that float matrices can be packed in. Packing what it unpacked gives the same numbers again."""

    @property
    def size(self) -> int:
        """How many numbers share a scale."""

    @property
    def levels(self) -> Tensor:
        """What the codes stand for, in units of their scale, in ascending order."""

    def in_blocks(self, weight: Tensor) -> Tensor:
        """A matrix (out, in) as its blocks (blocks, size), with zeros where there are no weights."""

    def start(self, block: int, width: int) -> tuple[int, int]:
        """The row and the column of the first number of a block, of a matrix with rows of this width."""

    def blocks(self, packed: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Of every block, padding included: the place in `levels` of each number (blocks, size), and the scale
        (blocks,). Their product is what `dequantize` gives."""

    def quantize(self, weight: Tensor) -> Packed:
        """The packed tensors of a float matrix (out, in). FathomError where the format cannot hold a weight."""


def finite(weight: Tensor) -> Tensor:
    """The weights in fp32. FathomError where one of them is not finite."""
    numbers = weight.detach().float()
    wrong = ~numbers.isfinite()
    if wrong.any():
        row, column = wrong.nonzero()[0].tolist()
        raise FathomError(
            f"found {weight[row, column].item()} at row {row}, column {column}; expected finite numbers; load the"
            " weights from a sound file"
        )
    return numbers


def nbytes(packed: Mapping[str, Tensor]) -> int:
    """Of all packed tensors: numbers and scales."""
    return sum(tensor.nbytes for tensor in packed.values())
