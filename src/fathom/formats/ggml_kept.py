"""Matrices of GGUF files as the number formats of fathom/quant hold them: the same numbers, stored apart.

Q8_0 and Q4_0 are int8 and int4, whose codes stay where they are in the file. Q5_0 is int8 too: its 5 bits are whole
numbers with the same scales. The k-quants keep their scales of scales.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from fathom.formats.ggml_blocks import SLICE, NumberType, codes_q4_k, codes_q5_k, codes_q6_k, five, in_slices, six_bits
from fathom.formats.ggml_layouts import Array
from fathom.quant.scheme import Packed

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from fathom.lazy import torch


FORMATS = {"Q8_0": "int8", "Q4_0": "int4", "Q5_0": "int8", "Q4_K": "q4_k", "Q5_K": "q5_k", "Q6_K": "q6_k"}
CODES: dict[str, Callable[[Array], Array]] = {"Q4_K": codes_q4_k, "Q5_K": codes_q5_k, "Q6_K": codes_q6_k}


def fields(data: Tensor, kind: NumberType, rows: int) -> Packed | None:
    """The fields of a matrix of `rows` rows in the format of its type, from its bytes (uint8).

    None where packing never gives them: a scale that is not finite, or -128 in 8 bits.
    """
    blocks = data.numpy().view(kind.layout)
    if not all(finite(blocks[name]) for name in ("scale", "offset") if name in (kind.layout.names or ())):
        return None
    found = k_quant(blocks, kind.name) if kind.name in CODES else whole_numbers(blocks, kind.name)
    if found is None:
        return None
    return {name: x.reshape(rows, -1, *x.shape[2:]) for name, x in found.items()}


def finite(halves: Array) -> bool:
    """Whether all fp16 numbers are: the exponent of the others is all ones."""
    return bool((np.ascontiguousarray(halves).view(np.uint16) & 0x7C00 != 0x7C00).all())


def whole_numbers(blocks: Array, kind: str) -> Packed | None:
    """Codes and scales of int8 or int4, (n, 1, ...) for n blocks."""
    codes = blocks["low"] if kind == "Q4_0" else blocks["q"] if kind == "Q8_0" else five(blocks).view(np.int8) - 16
    if codes.dtype == np.int8 and codes.min(initial=0) == -128:
        return None
    return {"codes": torch.from_numpy(codes)[:, None], "scales": tensor(blocks["scale"])[:, None]}


def k_quant(blocks: Array, kind: str) -> Packed:
    """The fields of quant/k_quants.py, (n, ...) for n blocks."""
    from fathom.native.codes import in_bytes

    scales = [blocks[name] for name in ("scale", "offset") if name in (blocks.dtype.names or ())]
    steps = blocks["scales"].reshape(-1, 8, 2) if kind == "Q6_K" else np.stack(six_bits(blocks), -1).astype(np.int8)
    bits = {"Q4_K": 0, "Q5_K": 1, "Q6_K": 2}[kind]  # beyond the low 4
    low, upper = (np.empty((len(blocks), 8, size), np.uint8) for size in (16, 4 * bits))

    def split(part: slice) -> None:
        first, more = in_bytes(tensor(CODES[kind](blocks[part])), bits)
        low[part] = first
        if more is not None:
            upper[part] = more

    in_slices(split, len(blocks), SLICE // 256)
    found = {"codes": tensor(low), "steps": tensor(steps), "scales": tensor(np.stack(scales, -1))[:, None]}
    return found | {"upper": tensor(upper)} if bits else found


def tensor(x: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))
