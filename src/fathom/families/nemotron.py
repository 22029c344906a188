"""Nemotron-4 and Minitron (NVIDIA 2024): squared ReLU, LayerNorms that multiply by 1 + weight, and rotation of half of
each head."""

from dataclasses import replace
from typing import Any

from fathom.families import llama, phi
from fathom.families.family import Fields, Tensors
from fathom.families.gguf_columns import LAYER_EPS, column, nothing, places, require
from fathom.families.rope import alike
from fathom.families.values import Values, key
from fathom.model.config import ResolvedConfig


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    attention, mlp = (values.get(name, bool, False) for name in ("attention_bias", "mlp_bias"))
    bias = (*(("qkv", "out") if attention else ()), *(("mlp",) if mlp else ()), "norm")
    return {"bias": bias, **phi.read_part(values, fields, 0.5)}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    return {
        "architectures": ["NemotronForCausalLM"],
        "model_type": "nemotron",
        "hidden_act": "relu2",
        "attention_bias": "qkv" in z.bias,
        "mlp_bias": "mlp" in z.bias,
        **phi.write_part(z),
    }


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    require("nemotron", z, tie_embeddings=False)
    return {}


def holds(z: ResolvedConfig) -> bool:
    return "norm" in z.bias and "unembed" not in z.bias and ("qkv" in z.bias) == ("out" in z.bias) and alike(z)


hf = llama.FAMILY.columns["hf"]
TENSORS = {part: cell for part, cell in hf.tensors.items() if part != "blocks.N.mlp.gate"}

FAMILY = replace(
    llama.FAMILY,
    name="nemotron",
    title="Nemotron",
    choices={"position": "rope", "norm": "layer_1p", "mlp": "relu2"},
    free=("rope",),
    holds=holds,
    columns={
        "ours": llama.FAMILY.columns["ours"],
        "hf": replace(
            hf, ids=("nemotron",), tensors=TENSORS, read=read_hf, write=write_hf,
            keys={**hf.keys, "norm_eps": key("norm_eps=1e-5"), "n_kv_head": key("num_key_value_heads?")},
            allowed={**hf.allowed, "hidden_act": (None, "relu2")},
        ),
        "gguf": column("nemotron", places(TENSORS, plus=True), nothing, write_gguf, eps=LAYER_EPS),
    },
    classes=("NemotronConfig", "NemotronForCausalLM"),
)  # fmt: skip
