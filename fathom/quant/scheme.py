"""What a number format for weights can do: pack a matrix into a few small tensors, and give it back.

The packed tensors are all that is kept; their names, shapes and types follow from the matrix's shape alone.
"""

from collections.abc import Mapping
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from fathom.errors import FathomError

Packed: TypeAlias = dict[str, Tensor]  # field -> tensor
Shape: TypeAlias = tuple[int, int]  # of a weight: out, in


class Scheme(Protocol):
    """A number format. One that has packed what it unpacked gets the same numbers again."""

    @property
    def name(self) -> str:
        """As users type it."""
        ...

    @property
    def bits(self) -> float:
        """Per parameter, scales included, of a matrix whose size leaves no group unfilled."""
        ...

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the packed tensors."""
        ...

    def quantize(self, weight: Tensor) -> Packed:
        """The packed tensors of a float matrix (out, in). FathomError where it holds what the format cannot."""
        ...

    def dequantize(self, packed: Mapping[str, Tensor], shape: Shape, dtype: torch.dtype) -> Tensor:
        """The matrix (out, in), worked out in fp32 and rounded to `dtype` at the end."""
        ...

    def empty(self, shape: Shape, device: torch.device | str = "meta") -> Packed:
        """Packed tensors of the right shapes and types for a matrix of `shape`, with nothing in them yet."""
        ...


def finite(weight: Tensor) -> Tensor:
    """The weights in fp32. FathomError where one of them is no finite number."""
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
