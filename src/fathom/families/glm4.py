"""GLM-4 of 2025 (GLM Team): GLM with a norm before and after attention and MLP."""

from dataclasses import replace
from typing import Any

from fathom.families import gemma2, glm
from fathom.families.family import no_keys
from fathom.families.gguf_columns import UP, column, nothing, places
from fathom.families.names import place
from fathom.families.rope import alike
from fathom.model.config import ResolvedConfig


def holds(z: ResolvedConfig) -> bool:
    return z.bias in ((), ("qkv",)) and alike(z)


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    return {**glm.write_hf(z), "architectures": ["Glm4ForCausalLM"], "model_type": "glm4"}


hf = glm.FAMILY.columns["hf"]
NAMES = {"attn_after": "post_self_attn_layernorm", "mlp_after": "post_mlp_layernorm"}
TENSORS = {**hf.tensors, **{f"blocks.N.{part}": place(f"model.layers.N.{name}") for part, name in NAMES.items()}}
FAMILY = replace(
    glm.FAMILY,
    name="glm4",
    title="GLM-4 0414",
    holds=holds,
    choices={**glm.FAMILY.choices, "residual": "sandwich"},
    columns={
        "ours": gemma2.FAMILY.columns["ours"],
        "hf": replace(hf, ids=("glm4",), tensors=TENSORS, write=write_hf),
        "gguf": column("glm4", places(TENSORS, cells=UP, pairs=True), nothing, no_keys),
    },
    classes=("Glm4Config", "Glm4ForCausalLM"),
)
