"""Weights in 8 bits: w = scale * q with whole q from -127 to 127, one scale for 32 numbers of a row.

The scale is that of the largest number: max |w| / 127. The values are those of GGUF's Q8_0, bit for bit.

    scales  fp16  (out, groups)       s           one for
    codes   int8  (out, groups, 32)   q q q ... q  these 32, in order
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fathom.quant.groups import GROUP, count, grouped, inverse, stored, ungrouped
from fathom.quant.scheme import Packed, Shape


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
