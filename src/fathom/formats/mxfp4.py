"""MXFP4, as gpt-oss's experts are published: 32 numbers of 4 bits share a power of two (OCP Microscaling, 2023).

`X_blocks` (e, out, groups, 16) has two numbers in each byte, the first in the lower half; `X_scales` (e, out, groups)
the exponents, from -127 on. X is the weight (e, out, in) of all experts of a layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fathom.formats.ggml_layouts import E2M1
from fathom.formats.opened import Stored
from fathom.formats.packed_layer import Method, PackedLayer, Settings, codes_in, names

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from fathom.lazy import torch


BYTES = 16  # of the numbers that share a scale


def unpack(layer: PackedLayer, settings: Settings) -> Stored:
    """The matrices of all experts."""
    blocks = layer.part("blocks", ("U8",), (0, 0, 0, BYTES))
    experts, out, groups, _ = blocks.shape
    scales = layer.part("scales", ("U8",), (experts, out, groups))

    def some(start: int, stop: int) -> Tensor:  # experts
        codes = codes_in(blocks.rows(start, stop), 4)  # (n, out, groups, 32)
        exponents = scales.rows(start, stop).int() - 128  # E2M1 has the numbers twice as large
        return torch.ldexp(torch.from_numpy(E2M1)[codes.int()], exponents[..., None]).flatten(2)

    return layer.matrix("MXFP4", (experts, out, 2 * BYTES * groups), some)


METHOD = Method(
    title="MXFP4",
    marks=("blocks",),
    parts=("scales",),
    unpack=unpack,
    known=names("modules_to_not_convert dequantize"),
    between="_",
    suffix="",
)
