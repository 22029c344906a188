"""Groups of 32 numbers along a row; each group shares one scale of 16 bits, as GGUF's Q8_0 and Q4_0 have it.

A row whose length is no multiple of 32 is filled up with zeros, which are kept but never read back. (GGUF refuses such
rows; where it does not, the values here are its own.)
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from fathom.errors import FathomError
from fathom.quant.scheme import Packed, Shape, finite

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


# Weights in 4 bits: w = scale * q with whole q from -8 to 7, one scale for 32 numbers of a row, two numbers to a
# byte.
#
# The number farthest from zero becomes -8, whatever its sign, so a scale may be negative. Codes and scales are those
# of GGUF's Q4_0, bit for bit, and lie as they do there.

# scales  fp16   (out, groups)
# codes   uint8  (out, groups, 16): byte i of a group holds q + 8 of two of its numbers, 16 apart
#
#         byte        0      1    ...   15
#         low half    w0     w1         w15
#         high half   w16    w17        w31
HALF = GROUP // 2


class Int4:
    """4 bits in groups of 32."""

    name = "int4"
    fields = ("codes", "scales")
    bits = 4 + 16 / GROUP

    def quantize(self, weight: Tensor) -> Packed:
        """(out, in) -> codes and scales."""
        x = grouped(weight)
        farthest = x.gather(-1, x.abs().argmax(-1, keepdim=True))
        scale = farthest / -8
        scales = stored(scale)
        q = (x * inverse(scale) + 8.5).to(torch.uint8).clamp(max=15)  # the nearest, as all are positive here
        return {"codes": q[..., :HALF] | q[..., HALF:] << 4, "scales": scales.squeeze(-1)}

    def dequantize(self, packed: Mapping[str, Tensor], shape: Shape, dtype: torch.dtype) -> Tensor:
        """codes and scales -> (out, in)."""
        codes = packed["codes"]
        x = torch.cat((codes & 15, codes >> 4), -1).float()  # (out, groups, 32)
        x -= 8
        x *= packed["scales"].float()[..., None]
        return ungrouped(x, shape, dtype)

    def empty(self, shape: Shape, device: torch.device | str = "meta") -> Packed:
        groups = shape[0], count(shape[1])
        return {
            "codes": torch.empty(*groups, HALF, dtype=torch.uint8, device=device),
            "scales": torch.empty(groups, dtype=torch.float16, device=device),
        }


# Weights in 8 bits: w = scale * q with whole q from -127 to 127, one scale for 32 numbers of a row.
#
# The scale is that of the largest number: max |w| / 127. The values are those of GGUF's Q8_0, bit for bit.
#
#     scales  fp16  (out, groups)       s             one for
#     codes   int8  (out, groups, 32)   q q q ... q   these 32, in order


class Int8:
    """8 bits in groups of 32."""

    name = "int8"
    fields = ("codes", "scales")
    bits = 8 + 16 / GROUP

    def quantize(self, weight: Tensor) -> Packed:
        """(out, in) -> codes and scales."""
        x = grouped(weight)
        scale = x.abs().amax(-1, keepdim=True) / 127
        scales = stored(scale)
        q = x * inverse(scale)
        whole = q.trunc()
        codes = whole + (2 * (q - whole)).trunc()  # the nearest; halves away from zero
        return {"codes": codes.to(torch.int8), "scales": scales.squeeze(-1)}

    def dequantize(self, packed: Mapping[str, Tensor], shape: Shape, dtype: torch.dtype) -> Tensor:
        """codes and scales -> (out, in)."""
        x = packed["codes"].float()
        x *= packed["scales"].float()[..., None]
        return ungrouped(x, shape, dtype)

    def empty(self, shape: Shape, device: torch.device | str = "meta") -> Packed:
        groups = shape[0], count(shape[1])
        return {
            "codes": torch.empty(*groups, GROUP, dtype=torch.int8, device=device),
            "scales": torch.empty(groups, dtype=torch.float16, device=device),
        }
