"""Command-R and Aya (Cohere 2024): attention beside the MLP after one LayerNorm without bias; logits are scaled; files
rotate channels 2i and 2i + 1 together. Command-R+ has a LayerNorm of each head of queries and keys."""

from dataclasses import replace
from typing import Any

from fathom.families import glm, llama
from fathom.families.family import Fields, Tensors
from fathom.families.gguf_columns import LAYER_EPS, QK_NORMS, column, places, refusal, require
from fathom.families.names import place
from fathom.families.rope import read_hf_rope, write_hf_rope
from fathom.families.values import Values, key
from fathom.model.config import ResolvedConfig, Scale


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    bias = values.get("attention_bias", bool, False)
    return {
        "bias": ("qkv", "out") if bias else (),
        "qk_norm": "layer" if values.get("use_qk_norm", bool, False) else "off",
        "scale": Scale(logits=values.number("logit_scale", 0.0625)),
        **read_hf_rope(values, fields["context_length"]),
    }


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    return {
        "architectures": ["CohereForCausalLM"],
        "model_type": "cohere",
        "hidden_act": "silu",
        "attention_bias": bool(z.bias),
        "logit_scale": z.scale.logits,
        "use_qk_norm": z.qk_norm == "layer",
        "pad_token_id": None,
        **write_hf_rope(z),
    }


def read_gguf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    normed = "blk.0.attn_q_norm.weight" in tensors
    return {"qk_norm": "layer" if normed else "off", "scale": Scale(logits=values.number("logit_scale"))}


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    require("command-r", z, tie_embeddings=True, bias=(), head_dim=z.d_model // z.n_head)
    if (z.qk_norm == "layer") != (z.n_layer >= NORMED):
        norms = "layer" if z.n_layer >= NORMED else "off"
        raise refusal("command-r", f"qk_norm={z.qk_norm}", f"{norms} in models of {z.n_layer} layers")
    return {"logit_scale": z.scale.logits}


def holds(z: ResolvedConfig) -> bool:
    return z.qk_norm in ("off", "layer") and z.bias in ((), ("qkv", "out")) and z.scale == Scale(logits=z.scale.logits)


NORMED = 64  # from so many layers on llama.cpp asks for norms of queries and keys, and below it has none
NORMS = {f"blocks.N.attn.{x}_norm": place(f"model.layers.N.self_attn.{x}_norm[h][pairs]") for x in "qk"}
hf = llama.FAMILY.columns["hf"]
TENSORS = {part: cell for part, cell in {**hf.tensors, **glm.PAIRS, **NORMS}.items() if part != "blocks.N.mlp_norm"}
KEYS = {
    **hf.keys,
    "norm_eps": key("layer_norm_eps=1e-5"),
    "tie_embeddings": key("tie_word_embeddings=true"),
}
PLACES = places(TENSORS, cells={part: f"{cell}[pairs]" for part, cell in QK_NORMS.items()}, pairs=True)
FAMILY = replace(
    llama.FAMILY,
    name="cohere",
    title="Command-R",
    choices={"position": "rope", "norm": "layer", "mlp": "swiglu", "residual": "parallel"},
    free=("scale", "qk_norm"),
    holds=holds,
    columns={
        "ours": llama.FAMILY.columns["ours"],
        "hf": replace(
            hf, ids=("cohere",), tensors=TENSORS, keys=KEYS, read=read_hf, write=write_hf,
            honoured=("logit_scale", "use_qk_norm"),
        ),
        "gguf": column("command-r", PLACES, read_gguf, write_gguf, eps=LAYER_EPS),
    },
    classes=("CohereConfig", "CohereForCausalLM"),
)  # fmt: skip
