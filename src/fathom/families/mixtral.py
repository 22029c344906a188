"""Mixtral (Jiang et al. 2024): a Mistral whose MLPs are mixtures of experts; the weights of those used sum to 1."""

from dataclasses import replace
from typing import Any

from fathom.families import experts, gguf_experts, llama, mistral
from fathom.families.family import Fields, Tensors
from fathom.families.gguf_columns import require
from fathom.families.sliding import write_layers
from fathom.families.values import Values, key
from fathom.model.config import Experts, Layers, ResolvedConfig


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    window = mistral.read_window(values, fields, None)
    return {
        **llama.read_hf(values, fields, tensors),
        "layers": window,
        "mlp": experts.read(values, N, renormalise=True),
    }


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    mlp = experts.mixture(z)
    names = {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        N: mlp.n,
        "num_experts_per_tok": mlp.used,
    }
    window = write_layers(z)["sliding_window"] if z.windowed else None
    return {**llama.write_hf(z), **names, "sliding_window": window}


def holds(z: ResolvedConfig) -> bool:
    mixture = experts.plain(z) and experts.mixture(z).renormalise
    return mixture and not z.bias and z.layers.pattern in ("g", "l")


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    require("llama", z, layers=Layers("g"))
    return {}


N = "num_local_experts"
hf = mistral.FAMILY.columns["hf"]
KEYS = {**hf.keys, "norm_eps": key("rms_norm_eps=1e-5")}
allowed = {name: values for name, values in hf.allowed.items() if name != N}
TENSORS = experts.tensors(
    hf.tensors,
    "model.layers.N.block_sparse_moe.gate",
    "model.layers.N.block_sparse_moe.experts.M",
    {"gate": "w1", "up": "w3", "down": "w2"},
)
GGUF = gguf_experts.column_of("llama", TENSORS, renormalise=True, pairs=True, write=write_gguf)
FAMILY = replace(
    llama.FAMILY,
    name="mixtral",
    title="Mixtral",
    choices={**llama.FAMILY.choices, "mlp": Experts(8, 2)},
    free=("layers",),
    holds=holds,
    columns={
        "ours": experts.ours(TENSORS),
        "hf": replace(hf, ids=("mixtral",), keys=KEYS, allowed=allowed, tensors=TENSORS, read=read_hf, write=write_hf),
        "gguf": replace(GGUF, applies=gguf_experts.has_experts("llama")),
    },
    classes=("MixtralConfig", "MixtralForCausalLM"),
)
