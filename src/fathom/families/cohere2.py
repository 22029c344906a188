"""Command-R7B (Cohere 2024): Command-R whose layers see a window, but for every fourth, which sees all positions
and does not rotate."""

from dataclasses import replace
from typing import Any

from fathom.families import cohere
from fathom.families.family import Fields, Tensors
from fathom.families.gguf_columns import LAYER_EPS, column, read_pattern, require, write_pattern
from fathom.families.sliding import read_layers, write_layers
from fathom.families.values import Values
from fathom.model.config import Layers, ResolvedConfig, Scale


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    every = values.count("sliding_window_pattern", values.count("_sliding_window_pattern", 4))
    default = Layers("l" * (every - 1) + "n", values.count("sliding_window", 4096))
    layers = read_layers(values, fields["n_layer"], default, full="n")
    return {**cohere.read_hf(values, fields, tensors), "layers": layers}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    names = {"architectures": ["Cohere2ForCausalLM"], "model_type": "cohere2"}
    return {**cohere.write_hf(z), **names, **write_layers(z)}


def read_gguf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    layers = read_pattern(values, "llln", 4096, fields["n_layer"])
    return {"scale": Scale(logits=values.number("logit_scale")), "layers": layers}


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    require("cohere2", z, tie_embeddings=True, bias=(), head_dim=z.d_model // z.n_head)
    return {"logit_scale": z.scale.logits, **write_pattern("cohere2", z, "llln")}


def holds(z: ResolvedConfig) -> bool:
    return cohere.holds(z) and z.layers.window is not None and "g" not in z.layers.pattern


hf = cohere.FAMILY.columns["hf"]

FAMILY = replace(
    cohere.FAMILY,
    name="cohere2",
    title="Command-R7B",
    free=("scale", "layers"),
    holds=holds,
    columns={
        "ours": cohere.FAMILY.columns["ours"],
        "hf": replace(
            hf, ids=("cohere2",), read=read_hf, write=write_hf, honoured=("logit_scale",),
            allowed={
                **{name: values for name, values in hf.allowed.items() if name != "sliding_window"},
                "rotary_pct": (None, 1.0),
            },
        ),
        "gguf": column("cohere2", cohere.PLACES, read_gguf, write_gguf, eps=LAYER_EPS),
    },
    classes=("Cohere2Config", "Cohere2ForCausalLM"),
)  # fmt: skip
