"""Weights in 4 bits of the normal distribution: w = scale * one of 16 quantiles, one scale for 64 numbers.

Dettmers et al. 2023 (QLoRA), sections 2 and 3. Weights are close to normal, so values that are equally likely carry
the most in 4 bits. The scale is max |w|; with double quantisation the scales are packed into 8 bits in their turn.
Codes and values are those of bitsandbytes.
"""

from collections.abc import Mapping
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from fathom.native.kernels import unpack_nf4
from fathom.quant.scheme import Packed, Shape, finite

BLOCK = 64  # weights to a scale, counted through the rows: a block may begin in one and end in the next
SUPER = 256  # scales to a scale of their own

# codes         uint8  (blocks, 32): byte i of a block holds the indices in NF4_VALUES of two of its numbers
#
#               byte        0    1   ...   31
#               high half   w0   w2        w62
#               low half    w1   w3        w63
#
# NF4Single:    scales        fp32   (blocks,)
# NF4:          scale_codes   uint8  (blocks,): indices in DYNAMIC; scale = mean + range * value
#               scale_ranges  fp32   (blocks / 256,), rounded up
#               scale_mean    fp32   (): so that both signs of the 8-bit values are of use


def normal_quantiles() -> Tensor:
    """The 16 values, ascending from -1 to 1.

    From an outermost probability to 1/2 go 8 steps on the positive side and 7 on the negative; the quantile at each is
    a value, and 1/2 itself is an exact 0, which both sides share. The outermost is where the end of the longer and of
    the shorter side would be, on average: 1 - (1/32 + 1/30) / 2. bitsandbytes cuts it to seven digits and takes its
    steps in fp32, and so does this.
    """
    positive, negative = (torch.linspace(0.9677083, 0.5, n + 1)[:-1].double() for n in (8, 7))
    ends, zero = torch.special.ndtri(positive), torch.zeros(1)
    quantiles = torch.cat((-torch.special.ndtri(negative), zero, ends.flip(0))).float()
    return quantiles / quantiles.max()


def decades(first: int) -> list[Tensor]:
    """Seven decades from 1e-6 up to 1: the first has so many values, and each twice as many as the one below it."""
    edges = [torch.linspace(0.1, 1, first * 2**i + 1) for i in range(7)]
    return [(edge[:-1] + edge[1:]) / 2 * 10.0 ** (i - 6) for i, edge in enumerate(edges)]


def dynamic_values() -> Tensor:
    """The 256 values of dynamic 8-bit numbers, ascending (Dettmers 2016, section 2.1.3): of both signs, 0 and 1."""
    return torch.cat((torch.tensor([0.0, 1.0]), *decades(1), *(-values for values in decades(1)))).sort().values


NF4_VALUES = normal_quantiles()
DYNAMIC = dynamic_values()
PAIRS = torch.cartesian_prod(NF4_VALUES, NF4_VALUES)  # (256, 2): what a byte stands for


def tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """PAIRS and DYNAMIC on a device: copied once, as each copy waits for a GPU. A traced graph copies them itself."""
    return copied(device) if torch.compiler.is_compiling() else cached(device)


def copied(device: torch.device) -> tuple[Tensor, Tensor]:
    return PAIRS.to(device), DYNAMIC.to(device)


cached = lru_cache(copied)


def in_blocks(x: Tensor, size: int) -> Tensor:
    """(n,) -> (n / size, size), rounded up, with zeros at the end."""
    return F.pad(x, (0, -len(x) % size)).unflatten(0, (-1, size))


def encode(x: Tensor, size: int, values: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) -> codes (n / size, size) and the largest number of each block (n / size,), both rounded up.

    A code is the index, in the ascending `values`, of the one nearest to x over the largest of its block.
    """
    blocks = in_blocks(x, size)
    largest = blocks.abs().amax(-1)
    scaled = blocks * (1 / largest.clamp(min=1e-38))[:, None]  # a block of zeros stays one
    middles = (values[:-1] + values[1:]) / 2
    return torch.bucketize(scaled, middles.to(x.device), out_int32=True).to(torch.uint8), largest


def start_of(rows: Tensor) -> int | None:
    """The first of rows that follow one another; None where they do not."""
    first = int(rows[0])
    return first if torch.equal(rows, torch.arange(first, first + len(rows))) else None


class NF4Single:
    """NF4 with scales in fp32."""

    name = "nf4-single"
    fields: tuple[str, ...] = ("codes", "scales")
    levels = NF4_VALUES

    def __init__(self, size: int = BLOCK) -> None:
        self.size = size

    @property
    def bits(self) -> float:
        return 4 + 32 / self.size

    def in_blocks(self, weight: Tensor) -> Tensor:
        return in_blocks(weight.flatten(), self.size)

    def start(self, block: int, width: int) -> tuple[int, int]:
        return divmod(block * self.size, width)

    def blocks(self, packed: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        codes = packed["codes"]
        return torch.stack((codes >> 4, codes & 15), -1).flatten(1).long(), self.scales(packed)

    def scales(self, packed: Mapping[str, Tensor]) -> Tensor:
        """Of each block, in fp32."""
        return packed["scales"]

    def quantize(self, weight: Tensor) -> Packed:
        """(out, in) -> codes and scales."""
        q, scales = encode(finite(weight).flatten(), self.size, NF4_VALUES)
        return {"codes": q[:, ::2] << 4 | q[:, 1::2], "scales": scales}

    def dequantize(self, packed: Mapping[str, Tensor], shape: Shape, dtype: torch.dtype) -> Tensor:
        """codes and scales -> (out, in): natively where possible, which is equal to the bit."""
        weight = unpack_nf4(packed, NF4_VALUES, DYNAMIC, shape, dtype) if self.size == BLOCK else None
        return self.dequantize_in_torch(packed, shape, dtype) if weight is None else weight

    def dequantize_in_torch(self, packed: Mapping[str, Tensor], shape: Shape, dtype: torch.dtype) -> Tensor:
        """The same without native code."""
        codes = packed["codes"]
        x = F.embedding(codes.int(), tables(codes.device)[0]).flatten(1)  # (blocks, size)
        x *= self.scales(packed)[:, None]
        return x.flatten()[: shape[0] * shape[1]].view(shape).to(dtype)

    def rows(self, packed: Mapping[str, Tensor], width: int, rows: Tensor) -> Packed | None:
        """Rows in their order, from the start of a block on; or any, where each is a whole number of blocks."""
        if (first := start_of(rows)) is not None and first * width % self.size == 0:
            blocks = slice(first * width // self.size, -(-(first + len(rows)) * width // self.size))
            return {name: x[blocks] for name, x in packed.items()}
        if width % self.size:
            return None
        return {name: x.unflatten(0, (-1, width // self.size))[rows].flatten(0, 1) for name, x in packed.items()}

    def empty(self, shape: Shape, device: torch.device | str = "meta") -> Packed:
        blocks = -(-shape[0] * shape[1] // self.size)
        return {
            "codes": torch.empty(blocks, self.size // 2, dtype=torch.uint8, device=device),
            "scales": torch.empty(blocks, device=device),
        }


class NF4(NF4Single):
    """NF4 with double quantisation, as QLoRA uses it.

    Packed a second time the codes are the same, and the scales nearly: the mean of rounded scales is another one.
    """

    name = "nf4"
    fields = ("codes", "scale_codes", "scale_ranges", "scale_mean")

    @property
    def bits(self) -> float:
        return 4 + 8 / self.size + 32 / (self.size * SUPER)

    def quantize(self, weight: Tensor) -> Packed:
        """(out, in) -> codes, and the scales in three parts."""
        packed = super().quantize(weight)
        scales = packed.pop("scales")
        mean = scales.mean()
        codes, ranges = encode(scales - mean, SUPER, DYNAMIC)
        return packed | {
            "scale_codes": codes.flatten()[: len(scales)].clone(),
            "scale_ranges": ranges,
            "scale_mean": mean,
        }

    def scales(self, packed: Mapping[str, Tensor]) -> Tensor:
        codes, ranges = packed["scale_codes"], packed["scale_ranges"]
        values = tables(codes.device)[1][codes.int()]
        return values * ranges.repeat_interleave(SUPER)[: len(codes)] + packed["scale_mean"]

    def rows(self, packed: Mapping[str, Tensor], width: int, rows: Tensor) -> Packed | None:
        """Rows in their order, from the start of a scale of scales on."""
        first, size = start_of(rows), self.size * SUPER
        codes = super().rows({name: packed[name] for name in ("codes", "scale_codes")}, width, rows)
        if first is None or first * width % size or codes is None:
            return None
        ranges = packed["scale_ranges"][first * width // size : -(-(first + len(rows)) * width // size)]
        return codes | {"scale_ranges": ranges, "scale_mean": packed["scale_mean"]}

    def empty(self, shape: Shape, device: torch.device | str = "meta") -> Packed:
        packed = super().empty(shape, device)
        blocks = len(packed.pop("scales"))
        return packed | {
            "scale_codes": torch.empty(blocks, dtype=torch.uint8, device=device),
            "scale_ranges": torch.empty(-(-blocks // SUPER), device=device),
            "scale_mean": torch.empty((), device=device),
        }
