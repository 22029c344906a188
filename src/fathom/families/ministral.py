"""Ministral (Mistral AI 2024): a LLaMA in which some layers see a window and the others all positions."""

from dataclasses import replace
from typing import Any

from fathom.families import llama, mistral
from fathom.families.family import Fields, Tensors
from fathom.families.sliding import read_layers, write_layers
from fathom.families.values import Values
from fathom.model.config import ResolvedConfig


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    mixed = {key: value for key, value in values.entries.items() if key != "layer_types"}
    window = mistral.read_window(replace(values, entries=mixed), fields, mistral.DEFAULT)
    layers = read_layers(values, fields["n_layer"], window) if window.window else window
    return {"layers": layers, **llama.read_hf(values, fields, tensors)}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    names = {"architectures": ["MinistralForCausalLM"], "model_type": "ministral"}
    return {**llama.write_hf(z), **names, **write_layers(z)}


def holds(z: ResolvedConfig) -> bool:
    return set(z.layers.pattern) == {"l", "g"} and not z.bias


hf = mistral.FAMILY.columns["hf"]
FAMILY = replace(
    mistral.FAMILY,
    name="ministral",
    title="Ministral",
    holds=holds,
    columns={**mistral.FAMILY.columns, "hf": replace(hf, ids=("ministral",), read=read_hf, write=write_hf)},
    classes=("MinistralConfig", "MinistralForCausalLM"),
)
