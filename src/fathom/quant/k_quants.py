"""The k-quants of GGUF as they are in the file: small whole numbers, whose scales are whole numbers with a scale.

    q4_k, q5_k   w = d s q - m t, where q has 4 or 5 bits, s and t have 6, and d and m are fp16
    q6_k         w = d s (q - 32), where q has 6 bits and s has 8 and a sign

256 numbers of a row share d and m; 32 share s and t, in q6_k 16 share s. Values are those of ggml, bit for bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.native.codes import numbers
from fathom.native.panels import k_quant
from fathom.quant.scheme import Packed, Shape

BLOCK, GROUP = 256, 32


@dataclass(frozen=True)
class KQuant:
    """One of them. Fields:

    codes   uint8 (out, groups, 16): the low 4 bits of the q, as int4 has them
    upper   uint8 (out, groups, 4 * the bits above those): native/codes.py has their order; none in q4_k
    steps   int8  (out, groups, 2): s and t; in q6_k s of the first 16 numbers and of the last
    scales  fp16  (out, blocks, 2): d and m; in q6_k (out, blocks, 1)
    """

    name: str
    upper: int  # bits of a code above 4
    scales: int  # fp16 numbers of a block

    @property
    def fields(self) -> tuple[str, ...]:
        return ("codes", *(["upper"] if self.upper else []), "steps", "scales")

    @property
    def bits(self) -> float:
        return 4 + self.upper + 16 / GROUP + 16 * self.scales / BLOCK

    def dequantize(self, packed: Mapping[str, Tensor], shape: Shape, dtype: torch.dtype) -> Tensor:
        """The fields -> (out, in)."""
        codes = numbers(packed["codes"], packed.get("upper")).float()
        return k_quant(codes, packed["steps"].float(), packed["scales"].float()).flatten(1).to(dtype)

    def rows(self, packed: Mapping[str, Tensor], width: int, rows: Tensor) -> Packed:
        return {name: x[rows] for name, x in packed.items()}

    def empty(self, shape: Shape, device: torch.device | str = "meta") -> Packed:
        """Of rows that are whole blocks."""
        out, blocks = shape[0], shape[1] // BLOCK
        n_groups = blocks * BLOCK // GROUP
        fields = {
            "codes": torch.empty(out, n_groups, GROUP // 2, dtype=torch.uint8, device=device),
            "upper": torch.empty(out, n_groups, GROUP // 8 * self.upper, dtype=torch.uint8, device=device),
            "steps": torch.empty(out, n_groups, 2, dtype=torch.int8, device=device),
            "scales": torch.empty(out, blocks, self.scales, dtype=torch.float16, device=device),
        }
        return {name: fields[name] for name in self.fields}


K_QUANTS = (KQuant("q4_k", 0, 2), KQuant("q5_k", 1, 2), KQuant("q6_k", 2, 1))
