"""Layers packed by bitsandbytes (Dettmers et al. 2022, 2023): 4 bits with scales of blocks, or int8 with one of rows.

As `Linear4bit` and `Linear8bitLt` save them. NF4 in blocks of 64 is our own `nf4` (fathom/quant/nf4.py): the codes are
used as they are, and so are the scales, packed a second time or not. Other block sizes and FP4 are unpacked.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from fathom.families.values import Values
from fathom.formats.opened import Stored
from fathom.formats.packed_layer import Method, PackedLayer, Settings, names
from fathom.json_file import parse_object, short
from fathom.quant.scheme import Packed

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from fathom.lazy import torch


STATE = "weight.quant_state.bitsandbytes__"  # a JSON object, as bytes
TYPES = ("nf4", "fp4")
STATE_LIMIT = 4096  # bytes; it has some 200
INT8 = 7.874015718698502e-3  # 1 / 127, as their code has it
ROW_MAJOR = b"\0"  # `weight_format`; the others are layouts of old GPUs
UNSIGNED = ("U8", "BF16", "F16", "F32")  # what 4-bit codes may be declared as, two or more to a number


def unpack(layer: PackedLayer, settings: Settings) -> Stored:
    """The matrix of a layer of either kind."""
    return int8(layer) if "SCB" in layer.parts else four_bits(layer)


def int8(layer: PackedLayer) -> Stored:
    """W = q * s / 127, with one s for each row."""
    weight = layer.part("weight", ("I8",), (0, 0))
    out, width = weight.shape
    scales = layer.floats("SCB", (out,))
    if "weight_format" in layer.parts and layer.part("weight_format", ("U8",)).content(8)[:1] != ROW_MAJOR:
        raise layer.error("weight_format is not 0 (rows in order); save it again with bitsandbytes 0.43")

    def rows(start: int, stop: int) -> Tensor:
        x = weight.read()[start:stop].float()
        x *= scales.read().float()[start:stop, None]
        return x.mul_(INT8)

    return layer.matrix("LLM.int8", (out, width), rows)


def four_bits(layer: PackedLayer) -> Stored:
    """W = s * value[code], s for each block of numbers counted through the rows."""
    kinds = [kind for kind in TYPES if STATE + kind in layer.parts]
    if len(kinds) != 1:
        raise layer.error(f"{len(kinds)} states; expected one of {' or '.join(TYPES)}")
    state = Values(parse_object(layer.parts[STATE + kinds[0]].content(STATE_LIMIT), f"{layer.where}: {layer.name}"),
                   f"{layer.where}: {layer.name}: quant_state")  # fmt: skip
    shape = state.entries.get("shape")
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(n) is int and 0 < n < 1 << 31 for n in shape):
        raise state.error(f"shape is {short(shape)}; expected two sizes")
    out, width = shape
    block = state.count("blocksize")
    if state.get("quant_type", str) != kinds[0] or block % 2 or block > 1 << 16:
        raise state.error(
            f"quant_type is {short(state.entries.get('quant_type'))} in blocks of {block}; expected {kinds[0]}"
        )
    weight = layer.part("weight", UNSIGNED)
    if weight.nbytes != (wanted := -(-out * width // 2)) and weight.nbytes - wanted not in range(4):
        raise layer.error(f"weight has {weight.nbytes} bytes; {out} x {width} numbers of 4 bits need {wanted}")
    scales = Scales(layer, state, -(-out * width // block))
    values = layer.floats("weight.quant_map", (16,))

    def rows(start: int, stop: int) -> Tensor:
        first, last = start * width // block, -(-stop * width // block)  # blocks
        codes = octets(weight)[first * block // 2 : last * block // 2]
        table = values.read().float()
        x = torch.nn.functional.embedding(codes.int(), torch.cartesian_prod(table, table)).flatten()  # two to a byte
        x = torch.nn.functional.pad(x, (0, (last - first) * block - len(x))).view(-1, block)
        x *= scales.read(first, last)[:, None]
        return x.flatten()[start * width - first * block :][: (stop - start) * width].view(-1, width)

    def keep(scheme: str) -> Packed | None:
        return scales.keep(octets(weight), values.read(), scheme)

    ours = ("nf4", "nf4-single") if kinds[0] == "nf4" and block == 64 else ()
    packed = {scheme: partial(keep, scheme) for scheme in ours}
    return layer.matrix(kinds[0].upper(), (out, width), rows, packed)


def octets(weight: Stored) -> Tensor:
    """Codes as bytes, whatever they are declared as."""
    return weight.read().flatten().view(torch.uint8)


class Scales:
    """The scale of each block: fp32, or 8 bits that have scales of their own (double quantisation)."""

    def __init__(self, layer: PackedLayer, state: Values, blocks: int) -> None:
        self.blocks, self.nested = blocks, "weight.nested_absmax" in layer.parts
        self.codes = layer.part("weight.absmax", ("U8",) if self.nested else ("F32", "BF16", "F16"), (blocks,))
        if self.nested:
            self.size = state.count("nested_blocksize")
            self.mean = state.get("nested_offset", float)
            self.ranges = layer.floats("weight.nested_absmax", (-(-blocks // self.size),))
            self.values = layer.floats("weight.nested_quant_map", (256,))

    def read(self, first: int, last: int) -> Tensor:
        """Of a range of blocks, fp32: computed in their order, for their bits."""
        codes = self.codes.read()[first:last]
        if not self.nested:
            return codes.float()
        ranges = self.ranges.read().float()[torch.arange(first, last) // self.size]
        return self.values.read().float()[codes.int()] * ranges + torch.tensor(self.mean)

    def keep(self, codes: Tensor, values: Tensor, scheme: str) -> Packed | None:
        """Codes and scales as our scheme has them; None where a table is not ours, or scales are packed otherwise."""
        from fathom.quant.nf4 import BLOCK, DYNAMIC, NF4_VALUES, SUPER

        if not torch.equal(values.float(), NF4_VALUES):
            return None
        count = self.blocks * BLOCK // 2
        whole = torch.nn.functional.pad(codes, (0, max(0, count - len(codes))))[:count]  # up to a whole block
        packed: Packed = {"codes": whole.view(-1, BLOCK // 2)}
        if scheme == "nf4-single":
            return packed | {"scales": self.read(0, self.blocks)}
        if not self.nested or self.size != SUPER or not torch.equal(self.values.read().float(), DYNAMIC):
            return None
        return packed | {
            "scale_codes": self.codes.read(),
            "scale_ranges": self.ranges.read().float(),
            "scale_mean": torch.tensor(self.mean),
        }


METHOD = Method(
    title="bitsandbytes",
    marks=("SCB", *(STATE + kind for kind in TYPES)),
    parts=(
        "weight",
        "weight_format",
        "weight.absmax",
        "weight.quant_map",
        "weight.nested_absmax",
        "weight.nested_quant_map",
    ),
    unpack=unpack,
    known=names(
        "load_in_4bit load_in_8bit _load_in_4bit _load_in_8bit llm_int8_threshold llm_int8_skip_modules"
        " llm_int8_enable_fp32_cpu_offload llm_int8_has_fp16_weight bnb_4bit_quant_type bnb_4bit_use_double_quant"
        " bnb_4bit_compute_dtype bnb_4bit_quant_storage"
    ),
)
