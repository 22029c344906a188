"""OLMo 2 (OLMo Team 2024): a LLaMA with norms after attention and MLP, not before, and of whole queries and keys."""

from dataclasses import replace
from typing import Any

from fathom.families import llama
from fathom.families.family import Fields, Tensors
from fathom.families.gguf_columns import column, places, read_pattern, require, write_pattern
from fathom.families.names import place
from fathom.families.rope import read_hf_rope, write_hf_rope
from fathom.families.values import Values, key
from fathom.model.config import ResolvedConfig


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    bias = values.get("attention_bias", bool, False)
    return {"bias": ("qkv", "out") if bias else (), **read_hf_rope(values, fields["context_length"])}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    names = {"architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "hidden_act": "silu"}
    return {**names, "attention_bias": bool(z.bias), **write_hf_rope(z)}


def read_gguf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    """OLMo 3 has the same architecture: a window, and no stretched rotation in the layers that have it."""
    if "attention.sliding_window" not in values:
        return {}
    theta = fields["rope_theta"]
    local = values.number("rope.freq_base_swa", theta, above=1.0)
    own = local if local != theta or fields["rope_scaling"] else None
    return {"layers": read_pattern(values, "lllg", 4096, fields["n_layer"]), "rope_local_theta": own}


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    require("olmo2", z, bias=())
    return write_pattern("olmo2", z, "lllg") if z.layers.window else {}


def holds(z: ResolvedConfig) -> bool:
    return z.bias in ((), ("qkv", "out")) and z.head_dim * z.n_head == z.d_model


AFTER = {"attn_after": "post_attention_layernorm", "mlp_after": "post_feedforward_layernorm"}
hf, ours = llama.FAMILY.columns["hf"], llama.FAMILY.columns["ours"]
LEFT = {part: cell for part, cell in hf.tensors.items() if part not in ("blocks.N.attn_norm", "blocks.N.mlp_norm")}
TENSORS = {**LEFT, **{f"blocks.N.{part}": place(f"model.layers.N.{name}") for part, name in AFTER.items()}}
KEYS = {name: cell for name, cell in hf.keys.items() if name != "head_dim"} | {"norm_eps": key("rms_norm_eps=1e-5")}
GGUF = column("olmo2", places(TENSORS), read_gguf, write_gguf)
FAMILY = replace(
    llama.FAMILY,
    name="olmo2",
    title="OLMo 2",
    choices={**llama.FAMILY.choices, "residual": "post", "qk_norm": "whole"},
    holds=holds,
    columns={
        "ours": replace(ours, tensors={part: place(part) for part in TENSORS}),
        "hf": replace(hf, ids=("olmo2",), tensors=TENSORS, keys=KEYS, read=read_hf, write=write_hf),
        "gguf": GGUF,
    },
    classes=("Olmo2Config", "Olmo2ForCausalLM"),
)
