"""Qwen3 (Qwen Team 2025): a LLaMA in which every query and key head is normalised before it is rotated."""

from dataclasses import replace
from typing import Any

from fathom.families import llama, qwen2
from fathom.families.family import Fields, Tensors
from fathom.families.names import place
from fathom.families.values import Values, key
from fathom.model.config import ResolvedConfig


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    bias = values.get("attention_bias", bool, False)
    return {"bias": ("qkv", "out") if bias else (), **qwen2.read_hf(values, fields, tensors)}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    names = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
    return {**qwen2.write_hf(z), **names, "attention_bias": bool(z.bias)}


def holds(z: ResolvedConfig) -> bool:
    """The two biases come together, and none is of the MLP."""
    return z.bias in ((), ("qkv", "out"))


hf, gguf = qwen2.FAMILY.columns["hf"], qwen2.FAMILY.columns["gguf"]
NORMS = {f"blocks.N.attn.{x}_norm": place(f"blk.N.attn_{x}_norm") for x in "qk"}
FAMILY = replace(
    llama.FAMILY,
    name="qwen3",
    title="Qwen3",
    choices={**llama.FAMILY.choices, "qk_norm": "on"},
    holds=holds,
    columns={
        "ours": llama.FAMILY.columns["ours"],
        "hf": replace(
            hf,
            ids=("qwen3",),
            keys={**hf.keys, "head_dim": key("head_dim")},  # required: its default is 128
            read=read_hf,
            write=write_hf,
        ),
        "gguf": replace(gguf, ids=("qwen3",), tensors={**gguf.tensors, **NORMS}),
    },
    classes=("Qwen3Config", "Qwen3ForCausalLM"),
)
