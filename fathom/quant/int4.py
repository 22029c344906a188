"""Weights in 4 bits: w = scale * q with whole q from -8 to 7, one scale for 32 numbers of a row, two numbers to a byte.

The number farthest from zero becomes -8, whatever its sign, so a scale may be negative. Codes and scales are those of
GGUF's Q4_0, bit for bit, and lie as they do there.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fathom.quant.groups import GROUP, count, grouped, inverse, stored, ungrouped
from fathom.quant.scheme import Packed, Shape

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
