"""StableLM 2 (Stability AI 2024): a LLaMA with LayerNorm, of whose heads a quarter is rotated. 12B has attention beside
the MLP, and a LayerNorm of each head of queries and keys."""

from dataclasses import replace
from typing import Any

from fathom.families import llama, phi
from fathom.families.family import Fields, Tensors
from fathom.families.gguf_columns import LAYER_EPS, QK_NORMS, column, places, require
from fathom.families.names import place
from fathom.families.rope import alike
from fathom.families.values import Values, key
from fathom.model.config import ResolvedConfig


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    bias = values.get("use_qkv_bias", bool, False)
    return {
        "bias": ("qkv", "norm") if bias else ("norm",),
        "qk_norm": "layer" if values.get("qk_layernorm", bool, False) else "off",
        "residual": "parallel" if values.get("use_parallel_residual", bool, False) else "on",
        **phi.read_part(values, fields, 0.25),
    }


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    return {
        "architectures": ["StableLmForCausalLM"],
        "model_type": "stablelm",
        "hidden_act": "silu",
        "use_qkv_bias": "qkv" in z.bias,
        "qk_layernorm": z.qk_norm == "layer",
        "use_parallel_residual": z.residual == "parallel",
        **phi.write_part(z),
    }


def read_gguf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    """As in llama.cpp, which tensors there are says whether heads are normalised, and whether the MLP has a norm, not
    the key: converters write it as true where a config.json leaves it out, of models whose MLPs have norms."""
    values.get("use_parallel_residual", bool, False)
    parallel = "blk.0.attn_norm.weight" in tensors and "blk.0.ffn_norm.weight" not in tensors
    normed = "blk.0.attn_q_norm.weight" in tensors
    return {"qk_norm": "layer" if normed else "off", "residual": "parallel" if parallel else "on"}


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    require("stablelm", z, tie_embeddings=False)
    return {"use_parallel_residual": z.residual == "parallel"}


def holds(z: ResolvedConfig) -> bool:
    known = z.qk_norm in ("off", "layer") and z.residual in ("on", "parallel")
    return known and z.bias in (("qkv", "norm"), ("norm",)) and alike(z) and z.d_model == z.n_head * z.head_dim


hf = llama.FAMILY.columns["hf"]
KEYS = {name: cell for name, cell in hf.keys.items() if name != "head_dim"} | {
    "n_kv_head": key("num_key_value_heads"),
    "norm_eps": key("layer_norm_eps=1e-5"),
}
NORMS = {f"blocks.N.attn.{x}_norm": place(f"model.layers.N.self_attn.{x}_layernorm.norms.M[h]") for x in "qk"}

FAMILY = replace(
    llama.FAMILY,
    name="stablelm",
    title="StableLM",
    choices={"position": "rope", "norm": "layer", "mlp": "swiglu"},
    free=("rope", "residual", "qk_norm"),
    holds=holds,
    columns={
        "ours": llama.FAMILY.columns["ours"],
        "hf": replace(
            hf, ids=("stablelm",), tensors={**hf.tensors, **NORMS}, keys=KEYS, read=read_hf, write=write_hf,
            honoured=("qk_layernorm", "use_parallel_residual"),
        ),
        "gguf": column("stablelm", places(hf.tensors, cells=QK_NORMS), read_gguf, write_gguf, eps=LAYER_EPS),
    },
    classes=("StableLmConfig", "StableLmForCausalLM"),
)  # fmt: skip
