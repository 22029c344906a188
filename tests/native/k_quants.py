"""Matrices packed as the k-quants of a GGUF file are, for tests of what takes them over."""

import numpy as np
import torch
from torch import Tensor

from fathom.formats.ggml_blocks import IDS, TYPES, packed
from fathom.formats.ggml_kept import fields
from fathom.quant.scheme import Packed

K_QUANTS = ("q4_k", "q5_k", "q6_k")


def in_blocks(weight: Tensor, kind: str) -> Packed:
    """The fields of a matrix (out, in) in this format, as read from the blocks that a file would hold."""
    blocks = TYPES[IDS[kind.upper()]]
    data = np.concatenate([part.reshape(-1) for part in packed(weight, blocks)])
    found = fields(torch.from_numpy(data), blocks, len(weight))
    assert found is not None
    return found
