"""EXAONE 4 (LG AI Research 2025): norms after attention and MLP, normed heads; layers without window do not rotate."""

from dataclasses import replace
from typing import Any

from fathom.families import olmo2
from fathom.families.family import Fields, Tensors
from fathom.families.gguf_columns import PATTERN, column, places, read_pattern, require, write_pattern
from fathom.families.rope import read_hf_rope, write_hf_rope
from fathom.families.sliding import read_layers, write_layers
from fathom.families.values import Values, key
from fathom.model.config import Layers, ResolvedConfig


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    rope = read_hf_rope(values, fields["context_length"])
    if values.entries.get("sliding_window") is None:  # without a window all layers rotate
        values.require({"layer_types": (None, ["full_attention"] * fields["n_layer"])})
        return {"layers": Layers("g"), **rope}
    values.require({"layer_types": (values.entries.get("layer_types") or [],)})  # which layers, must be said
    return {"layers": read_layers(values, fields["n_layer"], Layers("g"), full="n"), **rope}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    names = {"architectures": ["Exaone4ForCausalLM"], "model_type": "exaone4", "hidden_act": "silu"}
    return {**names, **write_layers(z), "sliding_window_pattern": None, **write_hf_rope(z)}


def read_gguf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    """Windows where the file says them, and in the size that llama.cpp knows by its number of layers."""
    n = fields["n_layer"]
    windows = n == LARGE or values.prefix + PATTERN in values.entries
    return {"layers": read_pattern(values, "llln", 4096, n)} if windows else {}


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    if z.n_layer == LARGE:
        return write_pattern("exaone4", z, "llln")
    require("exaone4", z, layers=Layers("g"))
    return {}


def holds(z: ResolvedConfig) -> bool:
    return not z.bias and (z.layers == Layers("g") or (z.layers.window is not None and "g" not in z.layers.pattern))


hf = olmo2.FAMILY.columns["hf"]
LARGE = 64  # layers of the 32B, the only size with windows in llama.cpp
allowed = {name: values for name, values in hf.allowed.items() if name != "sliding_window"}

FAMILY = replace(
    olmo2.FAMILY,
    name="exaone4",
    title="EXAONE 4",
    choices={**olmo2.FAMILY.choices, "qk_norm": "on"},
    free=("layers",),
    holds=holds,
    columns={
        "ours": olmo2.FAMILY.columns["ours"],
        "hf": replace(
            hf, ids=("exaone4",), allowed=allowed, read=read_hf, write=write_hf,
            keys={**hf.keys, "head_dim": key("head_dim?"), "n_kv_head": key("num_key_value_heads=32")},
        ),
        "gguf": column("exaone4", places(hf.tensors), read_gguf, write_gguf),
    },
    classes=("Exaone4Config", "Exaone4ForCausalLM"),
)  # fmt: skip
