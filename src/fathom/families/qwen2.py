"""Qwen2 and Qwen2.5 (Qwen Team 2024): a LLaMA whose queries, keys and values have biases.

A sliding window, which no released checkpoint of these sizes uses, makes another function and is refused.
"""

from dataclasses import replace
from typing import Any

from fathom.families import llama
from fathom.families.family import Fields, Tensors
from fathom.families.rope import read_hf_rope, write_hf_rope
from fathom.families.values import Values, key
from fathom.model.config import ResolvedConfig


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    values.require({"layer_types": (None, ["full_attention"] * fields["n_layer"])})
    return read_hf_rope(values, fields["context_length"])


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "use_sliding_window": False,
        "attention_dropout": z.dropout,
        **write_hf_rope(z),
    }


ALLOWED: dict[str, tuple[Any, ...]] = {
    name: values for name, values in llama.ALLOWED.items() if name != "sliding_window"
} | {"use_sliding_window": (None, False)}
hf, gguf = llama.FAMILY.columns["hf"], llama.FAMILY.columns["gguf"]
keys = {**hf.keys, "n_kv_head": key("num_key_value_heads")}  # required: its default is 32, LLaMA's is n_head
NEOX = {part: replace(place, pairs=False) for part, place in gguf.tensors.items()}  # pairs i and i + c/2, as ours
FAMILY = replace(
    llama.FAMILY,
    name="qwen2",
    title="Qwen2",
    choices={**llama.FAMILY.choices, "bias": ("qkv",), "qk_norm": "off"},
    columns={
        "ours": llama.FAMILY.columns["ours"],
        "hf": replace(hf, ids=("qwen2",), keys=keys, allowed=ALLOWED, read=read_hf, write=write_hf),
        "gguf": replace(gguf, ids=("qwen2",), tensors=NEOX),
    },
    classes=("Qwen2Config", "Qwen2ForCausalLM"),
)
