"""OLMoE (Muennighoff et al. 2024): mixtures of experts, and norms of whole queries and keys."""

from dataclasses import replace
from typing import Any

from fathom.families import experts, gguf_experts, llama
from fathom.families.family import Fields, Tensors
from fathom.families.gguf_columns import require
from fathom.families.rope import read_hf_rope, write_hf_rope
from fathom.families.values import Values, key
from fathom.model.config import Experts, ResolvedConfig


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    mlp = experts.read(values, "num_experts", values.get("norm_topk_prob", bool, False))
    bias = ("qkv", "out") if values.get("attention_bias", bool, False) else ()
    return {"mlp": mlp, "bias": bias, **read_hf_rope(values, fields["context_length"])}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    mlp = experts.mixture(z)
    return {
        "architectures": ["OlmoeForCausalLM"],
        "model_type": "olmoe",
        "hidden_act": "silu",
        "num_experts": mlp.n,
        "num_experts_per_tok": mlp.used,
        "norm_topk_prob": mlp.renormalise,
        "attention_bias": bool(z.bias),
        "clip_qkv": None,
        **write_hf_rope(z),
    }


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    require("olmoe", z, n_kv_head=z.n_head)
    return {}


def holds(z: ResolvedConfig) -> bool:
    square = z.head_dim * z.n_head == z.d_model
    return experts.plain(z) and z.bias in ((), ("qkv", "out")) and square


hf = llama.FAMILY.columns["hf"]
TENSORS = experts.tensors(hf.tensors, "model.layers.N.mlp.gate", "model.layers.N.mlp.experts.M")
FAMILY = replace(
    llama.FAMILY,
    name="olmoe",
    title="OLMoE",
    choices={**llama.FAMILY.choices, "qk_norm": "whole", "mlp": Experts(64, 8, False)},
    holds=holds,
    columns={
        "ours": experts.ours(TENSORS),
        "hf": replace(
            hf,
            ids=("olmoe",),
            keys={name: cell for name, cell in hf.keys.items() if name != "head_dim"}
            | {"norm_eps": key("rms_norm_eps=1e-5")},
            allowed={**hf.allowed, "clip_qkv": (None,)},
            tensors=TENSORS,
            read=read_hf,
            write=write_hf,
        ),
        "gguf": gguf_experts.column_of("olmoe", TENSORS, renormalise=False, write=write_gguf),
    },
    classes=("OlmoeConfig", "OlmoeForCausalLM"),
)
