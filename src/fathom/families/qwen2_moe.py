"""Qwen1.5-MoE and Qwen2-MoE (Qwen Team 2024): a Qwen2 with mixtures of experts, and one that every token runs."""

from dataclasses import replace
from typing import Any

from fathom.families import experts, gguf_experts, qwen2
from fathom.families.family import Fields, Tensors
from fathom.families.values import Values, key
from fathom.model.config import Experts, ResolvedConfig


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    shared, renormalise = values.count("shared_expert_intermediate_size"), values.get("norm_topk_prob", bool, False)
    bias = ("qkv",) if values.get("qkv_bias", bool, True) else ()
    dense = experts.read_dense(values, fields["n_layer"])
    mlp = experts.read(values, "num_experts", renormalise, shared=shared, **dense)
    return {**qwen2.read_hf(values, fields, tensors), "mlp": mlp, "bias": bias}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    mlp = experts.mixture(z)
    return {
        **qwen2.write_hf(z),
        "architectures": ["Qwen2MoeForCausalLM"],
        "model_type": "qwen2_moe",
        "num_experts": mlp.n,
        "num_experts_per_tok": mlp.used,
        "norm_topk_prob": mlp.renormalise,
        "shared_expert_intermediate_size": mlp.shared,
        **experts.write_dense(z),
        "qkv_bias": bool(z.bias),
    }


def holds(z: ResolvedConfig) -> bool:
    return experts.plain(z, shared=True, dense=True) and z.bias in ((), ("qkv",)) and z.d_model % z.n_head == 0


hf = qwen2.FAMILY.columns["hf"]
MLP = "model.layers.N.mlp"
TENSORS = experts.tensors(hf.tensors, f"{MLP}.gate", f"{MLP}.experts.M", shared=f"{MLP}.shared_expert", dense=True)
FAMILY = replace(
    qwen2.FAMILY,
    name="qwen2_moe",
    title="Qwen2-MoE",
    choices={**qwen2.FAMILY.choices, "mlp": Experts(60, 4, False, 5632)},
    free=("bias",),
    holds=holds,
    columns={
        "ours": experts.ours(TENSORS),
        "hf": replace(
            hf,
            ids=("qwen2_moe",),
            keys={**hf.keys, "d_ff": key("moe_intermediate_size")},
            tensors=TENSORS,
            read=read_hf,
            write=write_hf,
        ),
        "gguf": gguf_experts.column_of("qwen2moe", TENSORS, renormalise=False, own_width=True),
    },
    classes=("Qwen2MoeConfig", "Qwen2MoeForCausalLM"),
)
