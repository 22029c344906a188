"""Groups of 32 numbers along a row; each group shares one scale of 16 bits, as GGUF's Q8_0 and Q4_0 have it.

A row whose length is no multiple of 32 is filled up with zeros, which are kept but never read back. (GGUF refuses such
rows; where it does not, the values here are its own.) Does not know how many bits a number has.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fathom.errors import FathomError
from fathom.quant.scheme import Shape, finite

GROUP = 32


def count(width: int) -> int:
    """How many groups a row of `width` numbers has."""
    return -(-width // GROUP)


def grouped(weight: Tensor) -> Tensor:
    """(out, in) -> (out, groups, 32) in fp32. FathomError where a weight is no finite number."""
    x = finite(weight)
    return F.pad(x, (0, -x.shape[1] % GROUP)).unflatten(1, (-1, GROUP))


def ungrouped(x: Tensor, shape: Shape, dtype: torch.dtype) -> Tensor:
    """(out, groups, 32) -> (out, in), without what filled up the last group."""
    return x.flatten(1)[:, : shape[1]].to(dtype)


def stored(scale: Tensor) -> Tensor:
    """The scales in 16 bits. FathomError where one is too large for that."""
    half = scale.half()
    if half.isinf().any():
        raise FathomError(f"found weights so large that their scale is {scale.abs().max():.4g}; expected one of at most"
                          f" {torch.finfo(torch.float16).max:,.0f}, the largest in 16 bits; choose nf4")  # fmt: skip
    return half


def inverse(scale: Tensor) -> Tensor:
    """1 / scale, and 0 where the scale in 16 bits is 0: all numbers of such a group become 0."""
    return torch.where(scale.half() == 0, 0, 1 / scale)
