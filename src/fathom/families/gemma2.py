"""Gemma 2 (Gemma Team 2024): Gemma with a norm before and after attention and MLP, every other layer with a window, and
soft caps of scores and logits."""

import math
from dataclasses import replace
from typing import Any

from fathom.families import gemma
from fathom.families.family import Fields, Tensors, config_of
from fathom.families.gguf_columns import column, places, read_pattern, refusal, require, write_pattern
from fathom.families.names import place
from fathom.families.sliding import read_layers, write_layers
from fathom.families.values import Values
from fathom.model.config import Layers, ModelConfig, ResolvedConfig, Scale


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    return {
        **gemma.read_hf(values, fields, tensors),
        "layers": read_layers(values, fields["n_layer"], Layers("lg", values.count("sliding_window", 4096))),
        "scale": read_scale(values, fields),
    }


def read_scale(values: Values, fields: Fields, attn: float | None = 50.0, logits: float | None = 30.0) -> Scale:
    """The constants; attn and logits: the caps where the file does not say."""
    caps = {"attn_cap": ("attn_logit_softcapping", attn), "logit_cap": ("final_logit_softcapping", logits)}
    present = {ours: (name, default) for ours, (name, default) in caps.items() if values.entries.get(name, default)}
    read: dict[str, Any] = {ours: values.number(name, default) for ours, (name, default) in present.items()}
    scale = Scale(
        embed=gemma.embed_scale(fields["d_model"]), attn=values.number("query_pre_attn_scalar", 256.0) ** -0.5
    )
    return replace(scale, **read)


def write_scale(z: ResolvedConfig) -> dict[str, Any]:
    scalar = z.head_dim if z.scale.attn is None else float(f"{z.scale.attn**-2:.12g}")
    scalar = int(scalar) if scalar == int(scalar) else scalar  # transformers takes whole numbers only
    caps = {"attn_logit_softcapping": z.scale.attn_cap, "final_logit_softcapping": z.scale.logit_cap}
    return {**caps, "query_pre_attn_scalar": scalar}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    names = {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2"}
    return {**gemma.write_hf(z), **names, **write_layers(z), **write_scale(z)}


def attn_scale(z: ModelConfig, large: int) -> float:
    """What llama.cpp multiplies scores by. large: the number of layers of the size with another head width."""
    head_dim = z.head_dim or z.d_model // z.n_head
    return float((z.d_model // z.n_head if z.n_layer == large else head_dim) ** -0.5)


def require_scale(name: str, z: ResolvedConfig, large: int) -> None:
    """FathomError unless the constants are those that llama.cpp computes from the sizes."""
    fixed = attn_scale(z, large)
    if not math.isclose(z.head_dim**-0.5 if z.scale.attn is None else z.scale.attn, fixed, rel_tol=1e-6):
        raise refusal(name, f"scale.attn={z.scale.attn}", f"{fixed:g} in this size")


def read_gguf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    config = config_of(fields)
    scale = Scale(
        embed=gemma.embed_scale(config.d_model),
        attn=attn_scale(config, LARGE),
        attn_cap=values.number("attn_logit_softcapping", 50.0),
        logit_cap=values.number("final_logit_softcapping", 30.0),
    )
    return {"scale": scale, "layers": read_pattern(values, "lg", 4096, fields["n_layer"])}


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    require("gemma2", z, tie_embeddings=True, bias=())
    require_scale("gemma2", z, LARGE)
    if not z.scale.attn_cap or not z.scale.logit_cap:
        raise refusal("gemma2", f"attn_cap={z.scale.attn_cap}, logit_cap={z.scale.logit_cap}", "models with both caps")
    caps = {"attn_logit_softcapping": z.scale.attn_cap, "final_logit_softcapping": z.scale.logit_cap}
    return {**caps, **write_pattern("gemma2", z, "lg")}


def holds(z: ResolvedConfig) -> bool:
    rest = replace(z.scale, attn=None, attn_cap=None, logit_cap=None)
    return (
        rest == Scale(embed=gemma.embed_scale(z.d_model))
        and "n" not in z.layers.pattern
        and z.layers.window is not None
    )


hf = gemma.FAMILY.columns["hf"]
NAMES = {
    "attn_after": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_after": "post_feedforward_layernorm",
}
TENSORS = {**hf.tensors, **{f"blocks.N.{ours}": place(f"model.layers.N.{name}") for ours, name in NAMES.items()}}
CAPS = {"attn_logit_softcapping": (), "final_logit_softcapping": (), "sliding_window": ()}
ALLOWED = {name: values for name, values in gemma.ALLOWED.items() if name not in CAPS}
OURS = {
    **gemma.FAMILY.columns["ours"].tensors,
    **{f"blocks.N.{x}_after": place(f"blocks.N.{x}_after") for x in ("attn", "mlp")},
}
LARGE = 46  # layers of the 27B, whose scores are scaled by its width
FAMILY = replace(
    gemma.FAMILY,
    name="gemma2",
    title="Gemma 2",
    choices={**gemma.FAMILY.choices, "residual": "sandwich"},
    free=("scale", "layers"),
    holds=holds,
    columns={
        "ours": replace(gemma.FAMILY.columns["ours"], tensors=OURS),
        "hf": replace(
            hf, ids=("gemma2",), tensors=TENSORS, allowed=ALLOWED, read=read_hf, write=write_hf, honoured=tuple(CAPS)
        ),
        "gguf": column("gemma2", places(TENSORS, plus=True), read_gguf, write_gguf),
    },
    classes=("Gemma2Config", "Gemma2ForCausalLM"),
)
