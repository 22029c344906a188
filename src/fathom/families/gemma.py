"""Gemma 1 (Gemma Team 2024): a LLaMA with GEGLU, embeddings times sqrt(d), and norms that multiply by 1 + weight."""

from dataclasses import replace
from typing import Any

from fathom.errors import FathomError
from fathom.families import llama
from fathom.families.family import Fields, Tensors
from fathom.families.gguf_columns import column, places, require
from fathom.families.rope import read_hf_rope, write_hf_rope
from fathom.families.values import Values, key
from fathom.model.config import ResolvedConfig, Scale

ACTIVATIONS = (None, "gelu", "gelu_pytorch_tanh")  # of hidden_act; the library reads "gelu" of Gemma 1 as the tanh form


def embed_scale(d_model: int) -> float:
    return float(d_model**0.5)


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    bias = values.get("attention_bias", bool, False)
    return {
        "bias": ("qkv", "out") if bias else (),
        "scale": Scale(embed=embed_scale(fields["d_model"])),
        **read_hf_rope(values, fields["context_length"]),
    }


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    if z.bias not in ((), ("qkv", "out")):
        raise FathomError(f"bias={','.join(z.bias)}, and Gemma has both qkv and out or neither")
    return {
        "architectures": ["GemmaForCausalLM"],
        "model_type": "gemma",
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": bool(z.bias),
        **write_hf_rope(z),
    }


def read_gguf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    return {"scale": Scale(embed=embed_scale(fields["d_model"]))}


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    require("gemma", z, tie_embeddings=True, bias=())
    return {}


def holds(z: ResolvedConfig) -> bool:
    return z.scale == Scale(embed=embed_scale(z.d_model))


hf = llama.FAMILY.columns["hf"]
KEYS = {
    **hf.keys,
    "n_kv_head": key("num_key_value_heads"),  # required: its default is 16, LLaMA's is n_head
    "head_dim": key("head_dim=256"),
    "tie_embeddings": key("tie_word_embeddings=true"),
}
CHANGED = ("hidden_act", "attention_multiplier", "logits_scaling")
ALLOWED: dict[str, tuple[Any, ...]] = {
    **{name: values for name, values in llama.ALLOWED.items() if name not in CHANGED},
    "hidden_act": ACTIVATIONS,
    "hidden_activation": (None, "gelu_pytorch_tanh"),
}

FAMILY = replace(
    llama.FAMILY,
    name="gemma",
    title="Gemma",
    choices={**llama.FAMILY.choices, "mlp": "geglu", "norm": "rms_1p"},
    free=("scale",),
    holds=holds,
    columns={
        "ours": llama.FAMILY.columns["ours"],
        "hf": replace(
            hf,
            ids=("gemma",),
            keys=KEYS,
            allowed={**ALLOWED, "use_bidirectional_attention": (None, False)},
            read=read_hf,
            write=write_hf,
        ),
        "gguf": column("gemma", places(hf.tensors, plus=True), read_gguf, write_gguf),
    },
    classes=("GemmaConfig", "GemmaForCausalLM"),
)
