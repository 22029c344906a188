"""OLMo 3 (OLMo Team 2025): OLMo 2 in which most layers see a window; only the others stretch their rotation."""

from dataclasses import replace
from typing import Any

from fathom.families import olmo2
from fathom.families.family import Fields, Tensors
from fathom.families.rope import read_hf_rope, read_hf_rotations, write_hf_rotations
from fathom.families.sliding import read_layers, write_layers
from fathom.families.values import Values
from fathom.json_file import short
from fathom.model.config import Layers, ResolvedConfig

THETA = 500_000.0  # of every published model


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    layers = read_layers(values, fields["n_layer"], Layers("lllg", values.count("sliding_window", 4096)))
    rope = read_hf_rotations(values, fields["context_length"])
    if rope is None:
        if values.number("rope_theta", THETA) != THETA:
            theta = f"rope_theta is {short(values.entries['rope_theta'])}"
            raise values.error(
                f"{theta}, which transformers does not read for all layers; give both in rope_parameters"
            )
        rope = read_hf_rope(values, fields["context_length"])
        rope = {**rope, "rope_local_theta": rope["rope_theta"] if rope.get("rope_scaling") else None}
    bias = values.get("attention_bias", bool, False)
    return {"bias": ("qkv", "out") if bias else (), "layers": layers, **rope}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    names = {"architectures": ["Olmo3ForCausalLM"], "model_type": "olmo3"}
    return {**olmo2.write_hf(z), **names, **write_layers(z), **write_hf_rotations(z)}


def holds(z: ResolvedConfig) -> bool:
    local = z.rope.theta if z.rope.scaling else None
    windows = z.layers.window is not None and "n" not in z.layers.pattern
    return olmo2.holds(z) and windows and z.rope == replace(z.rope, local_theta=local, rotated=None)


hf = olmo2.FAMILY.columns["hf"]
allowed = {name: values for name, values in hf.allowed.items() if name != "sliding_window"}
FAMILY = replace(
    olmo2.FAMILY,
    name="olmo3",
    title="OLMo 3",
    free=("layers", "rope"),
    holds=holds,
    columns={
        "ours": olmo2.FAMILY.columns["ours"],
        "hf": replace(hf, ids=("olmo3",), allowed=allowed, read=read_hf, write=write_hf),
        "gguf": olmo2.GGUF,
    },
    classes=("Olmo3Config", "Olmo3ForCausalLM"),
)
