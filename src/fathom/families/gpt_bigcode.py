"""SantaCoder and StarCoder (BigCode 2023): a GPT-2 whose heads share one head of keys and values."""

from dataclasses import replace
from typing import Any

from fathom.families import gpt2
from fathom.families.family import Fields, Tensors
from fathom.families.names import place
from fathom.families.values import Values
from fathom.model.config import ResolvedConfig


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    return {**gpt2.read_activation(values), "n_kv_head": 1}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    names = {"architectures": ["GPTBigCodeForCausalLM"], "model_type": "gpt_bigcode", "multi_query": True}
    return {**gpt2.write_hf(z), **names}


def holds(z: ResolvedConfig) -> bool:
    return z.d_model == z.n_head * z.head_dim and z.n_kv_head == 1 and z.mlp in gpt2.ACTIVATIONS.values()


hf = gpt2.FAMILY.columns["hf"]
PARTS = {f"blocks.N.attn.{x}": place(f"transformer.h.N.attn.c_attn[{i}/3]") for i, x in enumerate("qkv", 1)}
TENSORS = {part: PARTS.get(part, replace(stored, transposed=False)) for part, stored in hf.tensors.items()}
ALLOWED = {
    **gpt2.ALLOWED,
    gpt2.BY_LAYER: (None, False),
    "multi_query": (None, True),  # without it, q, k and v alternate in c_attn
}
FAMILY = replace(
    gpt2.FAMILY,
    name="gpt_bigcode",
    title="StarCoder",
    choices={**gpt2.FAMILY.choices, "n_kv_head": 1},
    holds=holds,
    columns={
        "ours": gpt2.FAMILY.columns["ours"],
        "hf": replace(hf, ids=("gpt_bigcode",), tensors=TENSORS, allowed=ALLOWED, read=read_hf, write=write_hf),
        "gguf": replace(gpt2.FAMILY.columns["gguf"], ids=("starcoder",)),
    },
    free=(),
    classes=("GPTBigCodeConfig", "GPTBigCodeForCausalLM"),
)
