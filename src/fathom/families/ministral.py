"""Ministral (Mistral AI 2024): a LLaMA in which some layers see a window and the others all positions."""

from dataclasses import replace
from typing import Any

from fathom.families import llama, mistral
from fathom.families.sliding import write_layers
from fathom.model.config import ResolvedConfig


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
    columns={**mistral.FAMILY.columns, "hf": replace(hf, ids=("ministral",), write=write_hf)},
    classes=("MinistralConfig", "MinistralForCausalLM"),
)
