"""Granite 3 (IBM 2024): a LLaMA with constants for embeddings, scores, what layers add, and logits."""

from dataclasses import replace
from typing import Any

from fathom.families import llama
from fathom.families.family import Fields, Tensors
from fathom.families.gguf_columns import column, places
from fathom.families.values import Values, key
from fathom.model.config import ResolvedConfig, Scale

HONOURED = ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling")


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    embed, residual, attn, logits = (values.number(name, 1.0) for name in HONOURED)
    scale = Scale(embed=embed, residual=residual, attn=attn, logits=1 / logits)
    return {"scale": scale, **llama.read_hf(values, fields, tensors)}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    scale = z.scale
    return {
        **llama.write_hf(z),
        "architectures": ["GraniteForCausalLM"],
        "model_type": "granite",
        "embedding_multiplier": scale.embed,
        "residual_multiplier": scale.residual,
        "attention_multiplier": z.head_dim**-0.5 if scale.attn is None else scale.attn,
        "logits_scaling": float(f"{1 / scale.logits:.15g}"),
    }


GGUF = ("embedding_scale", "residual_scale", "attention.scale", "logit_scale")


def read_gguf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    embed, residual, attn, logits = (values.number(name) if name in values else None for name in GGUF)
    return {"scale": Scale(embed=embed or 1.0, residual=residual or 1.0, attn=attn, logits=1 / (logits or 1.0))}


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    attn = z.head_dim**-0.5 if z.scale.attn is None else z.scale.attn
    return dict(zip(GGUF, (z.scale.embed, z.scale.residual, attn, float(f"{1 / z.scale.logits:.15g}")), strict=True))


def holds(z: ResolvedConfig) -> bool:
    return z.scale != Scale() and not z.scale.attn_by_layer and z.scale.attn_cap is None and z.scale.logit_cap is None


hf = llama.FAMILY.columns["hf"]
FAMILY = replace(
    llama.FAMILY,
    name="granite",
    title="Granite",
    free=("scale",),
    holds=holds,
    columns={
        "ours": llama.FAMILY.columns["ours"],
        "hf": replace(
            hf, ids=("granite",), read=read_hf, write=write_hf, honoured=HONOURED,
            keys={**hf.keys, "tie_embeddings": key("tie_word_embeddings=false")},
        ),
        "gguf": column("granite", places(hf.tensors, pairs=True), read_gguf, write_gguf),
    },
    classes=("GraniteConfig", "GraniteForCausalLM"),
)  # fmt: skip
