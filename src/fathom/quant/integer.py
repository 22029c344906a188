"""int8 and int4: w = scale * q with whole q, one scale in 16 bits for each group of 32 numbers of a row.

Codes and values are those of GGUF's Q8_0 and Q4_0, bit for bit. A row whose length is no multiple of 32 is padded with
zeros, which are stored but never read back. (GGUF refuses such rows.)
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from fathom.errors import FathomError
from fathom.quant.scheme import Packed, Shape, finite

GROUP = 32


class Integer(ABC):
    """What both have in common: `codes` (out, groups, bytes of a group) and `scales` (out, groups) in fp16."""

    name: str
    dtype: torch.dtype  # of the codes
    per_byte: int  # codes
    lowest: int  # q
    fields: tuple[str, ...] = ("codes", "scales")

    def __init__(self, size: int = GROUP) -> None:
        self.size = size

    @property
    def n_bytes(self) -> int:
        """Of the codes of a group."""
        return self.size // self.per_byte

    @property
    def bits(self) -> float:
        return (8 * self.n_bytes + 16) / self.size

    @property
    def levels(self) -> Tensor:
        return torch.arange(self.lowest, -self.lowest if self.per_byte == 2 else 1 - self.lowest).float()

    def in_blocks(self, weight: Tensor) -> Tensor:
        return F.pad(weight, (0, -weight.shape[1] % self.size)).view(-1, self.size)

    def start(self, block: int, width: int) -> tuple[int, int]:
        row, group = divmod(block, -(-width // self.size))
        return row, group * self.size

    def blocks(self, packed: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        q = self.decode(packed["codes"]).flatten(0, 1)
        return q.long() - self.lowest, packed["scales"].float().flatten()

    def quantize(self, weight: Tensor) -> Packed:
        """(out, in) -> codes and scales. FathomError where a weight is not finite, or a scale too large for fp16."""
        x = self.in_blocks(finite(weight)).unflatten(0, (len(weight), -1))  # (out, groups, size)
        scale = self.scale(x)
        scales = in_fp16(scale)
        return {"codes": self.encode(x * inverse(scale)), "scales": scales.squeeze(-1)}

    def dequantize(self, packed: Mapping[str, Tensor], shape: Shape, dtype: torch.dtype) -> Tensor:
        """codes and scales -> (out, in), without the padding."""
        x = self.decode(packed["codes"])
        x *= packed["scales"].float()[..., None]
        return x.flatten(1)[:, : shape[1]].to(dtype)

    def rows(self, packed: Mapping[str, Tensor], width: int, rows: Tensor) -> Packed:
        return {name: x[rows] for name, x in packed.items()}

    def empty(self, shape: Shape, device: torch.device | str = "meta") -> Packed:
        groups = shape[0], -(-shape[1] // self.size)
        return {
            "codes": torch.empty(*groups, self.n_bytes, dtype=self.dtype, device=device),
            "scales": torch.empty(groups, dtype=torch.float16, device=device),
        }

    @abstractmethod
    def scale(self, x: Tensor) -> Tensor:
        """Of each group: (out, groups, size) -> (out, groups, 1)."""

    @abstractmethod
    def encode(self, q: Tensor) -> Tensor:
        """The codes of numbers over their scale: (out, groups, size) -> (out, groups, bytes)."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """(out, groups, bytes) -> q in fp32 (out, groups, size)."""


class Int8(Integer):
    """q from -127 to 127; scale = max |w| / 127. codes int8 (out, groups, 32): the q, in order."""

    name, dtype, per_byte, lowest = "int8", torch.int8, 1, -127

    def scale(self, x: Tensor) -> Tensor:
        return x.abs().amax(-1, keepdim=True) / 127

    def encode(self, q: Tensor) -> Tensor:
        whole = q.trunc()
        return (whole + (2 * (q - whole)).trunc()).to(torch.int8)  # the nearest; halves away from zero

    def decode(self, codes: Tensor) -> Tensor:
        return codes.float()


class Int4(Integer):
    """q from -8 to 7; the number farthest from zero becomes -8, whatever its sign, so a scale may be negative.

    codes uint8 (out, groups, 16): byte i of a group holds q + 8 of two of its numbers, 16 apart

        byte        0      1    ...   15
        low half    w0     w1         w15
        high half   w16    w17        w31
    """

    name, dtype, per_byte, lowest = "int4", torch.uint8, 2, -8

    def scale(self, x: Tensor) -> Tensor:
        return x.gather(-1, x.abs().argmax(-1, keepdim=True)) / -8

    def encode(self, q: Tensor) -> Tensor:
        low, high = (q + 8.5).to(torch.uint8).clamp(max=15).chunk(2, -1)  # the nearest, as all are positive here
        return low | high << 4

    def decode(self, codes: Tensor) -> Tensor:
        x = torch.cat((codes & 15, codes >> 4), -1).float()
        x -= 8
        return x


def in_fp16(scale: Tensor) -> Tensor:
    """The scales as they are stored. FathomError where one is too large for fp16."""
    half = scale.half()
    if half.isinf().any():
        raise FathomError(f"found weights so large that their scale is {scale.abs().max():.4g}; expected one of at most"
                          f" {torch.finfo(torch.float16).max:,.0f}, the largest in 16 bits; choose nf4")  # fmt: skip
    return half


def inverse(scale: Tensor) -> Tensor:
    """1 / scale, and 0 where the scale is 0 in fp16: all numbers of such a group become 0."""
    return torch.where(scale.half() == 0, 0, 1 / scale)
