"""Phi-3, Phi-3.5, Phi-4 and their minis (Abdin et al. 2024): a LLaMA whose q, k and v are one matrix, and gate and up
another. Some see a window, some rotate a part of each head by LongRoPE; the others are written as a LLaMA."""

from dataclasses import replace
from typing import Any

from fathom.families import llama, mistral
from fathom.families.family import Fields, Tensors
from fathom.families.names import place
from fathom.families.rope import read_hf_rope, write_hf_rope
from fathom.families.values import Values, key
from fathom.model.config import ResolvedConfig


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    head_dim = fields["d_model"] // max(1, fields["n_head"])
    rope = read_hf_rope(values, fields["context_length"], fields.get("head_dim") or head_dim)
    return {"bias": (), "layers": mistral.read_window(values, fields, None), **rope}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    scaling = z.rope.scaling
    original = scaling.original_context_length if scaling else None
    return {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "hidden_act": "silu",
        "attention_bias": False,
        "original_max_position_embeddings": original or z.context_length,
        "sliding_window": z.layers.window,
        "pad_token_id": None,
        **write_hf_rope(z),
    }


def holds(z: ResolvedConfig) -> bool:
    """What a LLaMA or Mistral cannot have: longrope, or heads that are rotated in part."""
    longrope = z.rope.scaling is not None and z.rope.scaling.kind == "longrope"
    square = z.head_dim * z.n_head == z.d_model
    return (longrope or z.rope.rotated is not None) and z.layers.pattern in ("g", "l") and not z.bias and square


hf = mistral.FAMILY.columns["hf"]
QKV = {f"blocks.N.attn.{x}": place(f"model.layers.N.self_attn.qkv_proj[{i}/3]") for i, x in enumerate("qkv", 1)}
UP = {f"blocks.N.mlp.{x}": place(f"model.layers.N.mlp.gate_up_proj[{i}/2]") for i, x in enumerate(("gate", "up"), 1)}
FAMILY = replace(
    llama.FAMILY,
    name="phi3",
    title="Phi-3",
    free=("layers", "rope"),
    holds=holds,
    columns={
        "ours": llama.FAMILY.columns["ours"],
        "hf": replace(
            hf,
            ids=("phi3",),
            tensors={**hf.tensors, **QKV, **UP},
            keys={**llama.FAMILY.columns["hf"].keys, "norm_eps": key("rms_norm_eps=1e-5")},
            allowed={**hf.allowed, "attention_bias": (None, False), "mlp_bias": (None, False)},
            read=read_hf,
            write=write_hf,
        ),
    },
    classes=("Phi3Config", "Phi3ForCausalLM"),
)
