"""StableLM 2 1.6B (Stability AI 2024): a LLaMA with LayerNorm, of whose heads a quarter is rotated."""

from dataclasses import replace
from typing import Any

from fathom.families import llama, phi
from fathom.families.family import Fields, Tensors
from fathom.families.gguf_columns import LAYER_EPS, column, nothing, places, require
from fathom.families.rope import alike
from fathom.families.values import Values, key
from fathom.model.config import ResolvedConfig


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    bias = values.get("use_qkv_bias", bool, False)
    return {"bias": ("qkv", "norm") if bias else ("norm",), **phi.read_part(values, fields, 0.25)}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    return {
        "architectures": ["StableLmForCausalLM"],
        "model_type": "stablelm",
        "hidden_act": "silu",
        "use_qkv_bias": "qkv" in z.bias,
        "qk_layernorm": False,
        "use_parallel_residual": False,
        **phi.write_part(z),
    }


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    require("stablelm", z, tie_embeddings=False)
    return {"use_parallel_residual": False}


def holds(z: ResolvedConfig) -> bool:
    return z.bias in (("qkv", "norm"), ("norm",)) and alike(z) and z.d_model == z.n_head * z.head_dim


hf = llama.FAMILY.columns["hf"]
KEYS = {name: cell for name, cell in hf.keys.items() if name != "head_dim"} | {
    "n_kv_head": key("num_key_value_heads"),
    "norm_eps": key("layer_norm_eps=1e-5"),
}

FAMILY = replace(
    llama.FAMILY,
    name="stablelm",
    title="StableLM",
    choices={"position": "rope", "norm": "layer", "mlp": "swiglu"},
    free=("rope",),
    holds=holds,
    columns={
        "ours": llama.FAMILY.columns["ours"],
        "hf": replace(
            hf, ids=("stablelm",), keys=KEYS, read=read_hf, write=write_hf,
            allowed={**hf.allowed, "qk_layernorm": (None, False), "use_parallel_residual": (None, False)},
        ),
        "gguf": column("stablelm", places(hf.tensors), nothing, write_gguf, eps=LAYER_EPS),
    },
    classes=("StableLmConfig", "StableLmForCausalLM"),
)  # fmt: skip
