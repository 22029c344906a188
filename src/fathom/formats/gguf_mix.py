"""The number type of each tensor of a GGUF file: one for all matrices, or a mix such as Q4_K_M.

A mix gives more bits to the matrices that lose most by few: the output, and the values and `down` of the first, the
last and every third other layer. The rules are llama.cpp's (llama-quant.cpp) without an importance matrix, and so are
the substitutes for rows that are no multiple of 256.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fathom.formats.ggml_blocks import IDS, TYPES, NumberType

MIXES = {"Q4_K_M": "Q4_K", "Q4_K_S": "Q4_K", "Q5_K_M": "Q5_K", "Q5_K_S": "Q5_K", "Q6_K": "Q6_K"}  # the type of most
KINDS = ("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q4_0")  # of files, by size
NARROWER = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}  # with blocks of 32
VALUES = ("attn_v", "attn_qkv", "attn_kv_b")
UNPACKED = ("position_embd", "token_types")  # tables with a row for each position or kind of token


@dataclass(frozen=True)
class Types:
    """`kind`, a type or a mix, for the tensors of one model."""

    kind: str
    architecture: str
    n_layer: int
    n_expert: int
    grouped: bool  # whether heads share keys and values
    tied: bool  # the embedding is the output too

    def of(self, name: str, shape: tuple[int, ...]) -> NumberType:
        """The type of the tensor of this name in the file."""
        kept = len(shape) == 1 or "_norm." in name or "ffn_gate_inp" in name or name.startswith(UNPACKED)
        kind = "F32" if kept else self.mixed(name, shape) if self.kind in MIXES else self.kind
        while shape[-1] % TYPES[IDS[kind]].size:
            kind = NARROWER.get(kind, "F16")
        return TYPES[IDS[kind]]

    def mixed(self, name: str, shape: tuple[int, ...]) -> str:
        """The type that the mix gives a matrix, whatever the length of its rows."""
        base, part, layer = MIXES[self.kind], *place(name)
        falcon, medium, small = self.architecture == "falcon", self.kind.endswith("_M"), self.kind == "Q4_K_S"
        if name == "output.weight" or (self.tied and name == "token_embd.weight"):
            return "Q8_0" if falcon or shape[-1] % 256 else "Q6_K"
        if part in VALUES:
            return self.values(base, layer)
        if part.startswith("ffn_down"):
            if falcon and self.kind == "Q4_K_M":
                return "Q6_K" if layer < self.n_layer // 16 else "Q5_K" if self.weighty(layer) else base
            if medium and self.weighty(layer):
                return "Q6_K"
            return "Q5_K" if small and not falcon and layer < self.n_layer // 8 else base
        if self.n_expert == 8 and part == "attn_k":
            return "Q8_0"
        eight = self.n_expert == 8 and part == "attn_output" and not falcon and base == "Q4_K"
        return "Q5_K" if eight else base

    def values(self, base: str, layer: int) -> str:
        """Of the values' matrix, which is small where heads share them: in Mixtral, and in LLaMA of 70 billion."""
        if self.n_expert == 8:
            return "Q8_0"
        if self.kind.endswith("_M") and self.weighty(layer):
            return "Q6_K"
        large = self.architecture == "llama" and self.n_layer == 80 and self.grouped
        return "Q5_K" if base == "Q4_K" and (large or (self.kind == "Q4_K_S" and layer < 4)) else base

    def weighty(self, layer: int) -> bool:
        first, n = self.n_layer // 8, self.n_layer
        return layer < first or layer >= 7 * n // 8 or (layer - first) % 3 == 2


def place(name: str) -> tuple[str, int]:
    """`blk.3.ffn_down.weight` -> ("ffn_down", 3); outside of layers ("", 0)."""
    found = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    return (found[2], int(found[1])) if found else ("", 0)


def types(kind: str, metadata: Mapping[str, Any], names: Iterable[str]) -> Types:
    """The types of a file with this metadata and these tensors."""
    name = metadata["general.architecture"]
    heads = metadata.get(f"{name}.attention.head_count", 1)
    return Types(
        kind=kind,
        architecture=name,
        n_layer=metadata[f"{name}.block_count"],
        n_expert=metadata.get(f"{name}.expert_count", 0),
        grouped=metadata.get(f"{name}.attention.head_count_kv", heads) != heads,
        tied="output.weight" not in names,
    )
