"""Gemma 3, its text model (Gemma Team 2025): Gemma 2 without caps, with normed queries and keys, and a rotation of its
own in layers with a window."""

from dataclasses import replace
from typing import Any

from fathom.families import gemma, gemma2
from fathom.families.family import Fields, Tensors, config_of
from fathom.families.gguf_columns import PATTERN, column, places, read_pattern, refusal, require, write_pattern
from fathom.families.names import place
from fathom.families.rope import read_hf_rope, read_hf_rotations, write_hf_rotations
from fathom.families.sliding import read_layers, write_layers
from fathom.families.values import Values
from fathom.model.config import Layers, ResolvedConfig, Scale

LOCAL, GLOBAL = 10_000.0, 1_000_000.0  # thetas where the file does not say


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    every = values.count("sliding_window_pattern", values.count("_sliding_window_pattern", 6))
    default = Layers("l" * (every - 1) + "g", values.count("sliding_window", 4096))
    bias = values.get("attention_bias", bool, False)
    return {
        "bias": ("qkv", "out") if bias else (),
        "layers": read_layers(values, fields["n_layer"], default),
        "scale": gemma2.read_scale(values, fields, None, None),
        **read_rotations(values, fields["context_length"]),
    }


def read_rotations(values: Values, context_length: int) -> Fields:
    """The rotations of both kinds of layer: as version 5 of the library nests them, or under the older names."""
    nested = read_hf_rotations(values, context_length)
    if nested is not None:
        return nested
    theta = {} if "rope_theta" in values else {"rope_theta": GLOBAL}
    far = read_hf_rope(replace(values, entries={**values.entries, **theta}), context_length)
    return {**far, "rope_local_theta": values.number("rope_local_base_freq", LOCAL)}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    names = {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"}
    return {
        **gemma.write_hf(z), **names, **write_layers(z), **gemma2.write_scale(z),
        **write_hf_rotations(z), "rope_local_base_freq": z.rope.local_theta or z.rope.theta,
    }  # fmt: skip


def read_gguf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    config, cap = config_of(fields), "final_logit_softcapping"
    scale = Scale(embed=gemma.embed_scale(config.d_model), attn=gemma2.attn_scale(config, LARGE))
    if values.entries.get(values.prefix + cap):
        scale = replace(scale, logit_cap=values.number(cap))
    if not values.get("attention.sliding_window", int, 0):
        return {"scale": scale}
    local = values.number("rope.freq_base_swa", LOCAL, above=1.0)
    layers = read_pattern(values, "lllllg", 1024, fields["n_layer"])
    return {"scale": scale, "layers": layers, "rope_local_theta": local}


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    require("gemma3", z, bias=())
    gemma2.require_scale("gemma3", z, LARGE)
    if z.scale.attn_cap:
        raise refusal("gemma3", f"attn_cap={z.scale.attn_cap}", "models without it")
    if z.rope.scaling is not None and z.rope.scaling.attention_factor is not None:  # llama.cpp warms all layers by it
        raise refusal("gemma3", f"rope.scaling.attention_factor={z.rope.scaling.attention_factor}", "that of yarn")
    every = z.layers.pattern.find("g") + 1 or 6
    pattern = {PATTERN: every, **write_pattern("gemma3", z, "l" * (every - 1) + "g")}
    cap = {"final_logit_softcapping": z.scale.logit_cap} if z.scale.logit_cap else {}
    return {"rope.freq_base_swa": z.rope.local_theta or z.rope.theta, **cap, **pattern}


def holds(z: ResolvedConfig) -> bool:
    rest = replace(z.scale, attn=None, logit_cap=None)
    windows = z.layers.window is not None and "n" not in z.layers.pattern
    return (
        rest == Scale(embed=gemma.embed_scale(z.d_model))
        and windows
        and (z.rope.local_theta is not None or z.rope.scaling is None)
    )


hf = gemma2.FAMILY.columns["hf"]
NORMS = {f"blocks.N.attn.{x}_norm": place(f"model.layers.N.self_attn.{x}_norm") for x in "qk"}
LARGE = 62  # layers of the 27B, whose scores are scaled by its width
FAMILY = replace(
    gemma2.FAMILY,
    name="gemma3_text",
    title="Gemma 3",
    choices={**gemma2.FAMILY.choices, "qk_norm": "on"},
    free=("scale", "layers", "rope"),
    holds=holds,
    columns={
        "ours": gemma2.FAMILY.columns["ours"],
        "hf": replace(
            hf, ids=("gemma3_text",), tensors={**hf.tensors, **NORMS}, read=read_hf, write=write_hf,
            allowed={
                **hf.allowed,
                "use_bidirectional_attention": (None, False),
                "attn_logit_softcapping": (None,),  # which transformers reads and does not apply
            },
            honoured=("final_logit_softcapping", "sliding_window"),
        ),
        "gguf": column("gemma3", places({**hf.tensors, **NORMS}, plus=True), read_gguf, write_gguf),
    },
    classes=("Gemma3TextConfig", "Gemma3ForCausalLM"),
)  # fmt: skip
