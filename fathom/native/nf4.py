"""NF4 to floats in one pass, as nf4.cpp does it. Does not know how weights come to be packed."""

import ctypes
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fathom.native.build import library

SCALES = ("scales", "scale_codes", "scale_ranges", "dynamic", "scale_mean")  # in the order of nf4.cpp
FORMATS = (torch.float32, torch.bfloat16)


def unpack(
    packed: Mapping[str, Tensor], values: Tensor, dynamic: Tensor, shape: Sequence[int], dtype: torch.dtype
) -> Tensor | None:
    """The matrix of `shape`: the tensors that fathom/quant/nf4.py packs, its 16 values and those of its scales.

    None where this cannot be done here: other devices and formats, no compiler, a graph that is being traced.
    """
    codes = packed["codes"]
    if codes.device.type != "cpu" or dtype not in FORMATS or torch.compiler.is_compiling():
        return None
    if (lib := library("nf4")) is None:
        return None
    parts = dict(packed) | ({} if "scales" in packed else {"dynamic": dynamic})
    held = [codes.contiguous(), values, *(parts[name].contiguous() if name in parts else None for name in SCALES)]
    y = torch.empty(tuple(shape), dtype=dtype)
    pointers = [ctypes.c_void_p(None if x is None else x.data_ptr()) for x in held]
    numbers, narrow = ctypes.c_int64(math.prod(shape)), ctypes.c_bool(dtype == torch.bfloat16)
    lib.nf4(*pointers, numbers, ctypes.c_void_p(y.data_ptr()), narrow, ctypes.c_int(torch.get_num_threads()))
    return y
