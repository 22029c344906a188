"""Qwen3-MoE (Qwen Team 2025): a Qwen3 whose MLPs are mixtures of experts."""

from dataclasses import replace
from typing import Any

from fathom.families import experts, gguf_experts, qwen3
from fathom.families.family import Fields, Tensors
from fathom.families.values import Values, key
from fathom.model.config import Experts, ResolvedConfig


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    n = "num_experts" if "num_experts" in values else "num_local_experts"
    dense = experts.read_dense(values, fields["n_layer"])
    mlp = experts.read(values, n, values.get("norm_topk_prob", bool, False), **dense)
    return {**qwen3.read_hf(values, fields, tensors), "mlp": mlp}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    mlp = experts.mixture(z)
    return {
        **qwen3.write_hf(z),
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "num_experts": mlp.n,
        "num_experts_per_tok": mlp.used,
        "norm_topk_prob": mlp.renormalise,
        **experts.write_dense(z),
    }


def holds(z: ResolvedConfig) -> bool:
    return experts.plain(z, dense=True) and qwen3.holds(z)


hf = qwen3.FAMILY.columns["hf"]
allowed = {name: values for name, values in hf.allowed.items() if name != "num_local_experts"}
TENSORS = experts.tensors(hf.tensors, "model.layers.N.mlp.gate", "model.layers.N.mlp.experts.M", dense=True)
FAMILY = replace(
    qwen3.FAMILY,
    name="qwen3_moe",
    title="Qwen3-MoE",
    choices={**qwen3.FAMILY.choices, "mlp": Experts(128, 8)},
    holds=holds,
    columns={
        "ours": experts.ours(TENSORS),
        "hf": replace(
            hf,
            ids=("qwen3_moe",),
            keys={**hf.keys, "d_ff": key("moe_intermediate_size")},
            allowed=allowed,
            tensors=TENSORS,
            read=read_hf,
            write=write_hf,
        ),
        "gguf": gguf_experts.column_of("qwen3moe", TENSORS, renormalise=True, own_width=True),
    },
    classes=("Qwen3MoeConfig", "Qwen3MoeForCausalLM"),
)
