"""OLMo 1 (Groeneveld et al. 2024): a LLaMA whose norms are LayerNorms without weights."""

from dataclasses import replace
from typing import Any

from fathom.families import llama
from fathom.families.family import Fields, Tensors
from fathom.families.gguf_columns import LAYER_EPS, column, nothing, places, require
from fathom.families.rope import read_hf_rope, write_hf_rope
from fathom.families.values import Values, key
from fathom.model.config import ResolvedConfig

EPS = 1e-5  # fixed by the library


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    bias = values.get("attention_bias", bool, False)
    rope = read_hf_rope(values, fields["context_length"])
    return {"bias": ("qkv", "out") if bias else (), "norm_eps": EPS, **rope}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    names = {"architectures": ["OlmoForCausalLM"], "model_type": "olmo", "hidden_act": "silu", "clip_qkv": None}
    return {**names, "attention_bias": bool(z.bias), **write_hf_rope(z)}


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    require("olmo", z, bias=())
    return {}


def holds(z: ResolvedConfig) -> bool:
    return z.norm_eps == EPS and z.bias in ((), ("qkv", "out")) and z.head_dim * z.n_head == z.d_model


hf = llama.FAMILY.columns["hf"]
KEYS = {name: cell for name, cell in hf.keys.items() if name not in ("norm_eps", "head_dim")}

FAMILY = replace(
    llama.FAMILY,
    name="olmo",
    title="OLMo",
    choices={**llama.FAMILY.choices, "norm": "layer_plain"},
    holds=holds,
    columns={
        "ours": llama.FAMILY.columns["ours"],
        "hf": replace(
            hf, ids=("olmo",), read=read_hf, write=write_hf, allowed={**hf.allowed, "clip_qkv": (None,)},
            keys={**KEYS, "tie_embeddings": key("tie_word_embeddings=false")},
        ),
        "gguf": column("olmo", places(hf.tensors, pairs=True), nothing, write_gguf, eps=LAYER_EPS),
    },
    classes=("OlmoConfig", "OlmoForCausalLM"),
)  # fmt: skip
