"""Granite 3 MoE (IBM 2024): a Granite whose MLPs are mixtures of experts, which its files keep in one tensor."""

from dataclasses import replace
from typing import Any

from fathom.families import experts, gguf_experts, granite
from fathom.families.family import Fields, Tensors
from fathom.families.values import Values
from fathom.model.config import Experts, ResolvedConfig

N = "num_local_experts"


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    return {**granite.read_hf(values, fields, tensors), "mlp": experts.read(values, N, renormalise=True)}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    mlp = experts.mixture(z)
    names = {"architectures": ["GraniteMoeForCausalLM"], "model_type": "granitemoe"}
    return {**granite.write_hf(z), **names, N: mlp.n, "num_experts_per_tok": mlp.used}


def holds(z: ResolvedConfig) -> bool:
    """As Mixtral's, with constants, all of which may be 1."""
    plain = experts.plain(z) and experts.mixture(z).renormalise
    return plain and granite.holds(z) and z.bias in ((), ("qkv", "out")) and z.head_dim * z.n_head == z.d_model


hf = granite.FAMILY.columns["hf"]
EXPERTS = "model.layers.N.block_sparse_moe"
PROJECTIONS = {"gate": "input_linear[e][1/2]", "up": "input_linear[e][2/2]", "down": "output_linear[e]"}
TENSORS = experts.tensors(hf.tensors, f"{EXPERTS}.router.layer", EXPERTS, PROJECTIONS)
FAMILY = replace(
    granite.FAMILY,
    name="granitemoe",
    title="Granite MoE",
    choices={**granite.FAMILY.choices, "mlp": Experts(32, 8)},
    holds=holds,
    columns={
        "ours": experts.ours(TENSORS),
        "hf": replace(
            hf,
            ids=("granitemoe",),
            allowed={name: values for name, values in hf.allowed.items() if name != N},
            tensors=TENSORS,
            read=read_hf,
            write=write_hf,
        ),
        "gguf": gguf_experts.column_of(
            "granitemoe", TENSORS, renormalise=True, pairs=True, read=granite.read_gguf, write=granite.write_gguf
        ),
    },
    classes=("GraniteMoeConfig", "GraniteMoeForCausalLM"),
)
