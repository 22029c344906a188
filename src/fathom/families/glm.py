"""GLM-4 9B of 2024 (GLM Team): a LLaMA whose files rotate channels 2i and 2i + 1 of the first half of each head, with
biases of q, k and v; gate and up are one matrix."""

from dataclasses import replace
from typing import Any

from fathom.families import llama
from fathom.families.family import Fields, Tensors
from fathom.families.gguf_columns import QKV, column, nothing, places, require
from fathom.families.gguf_columns import UP as GATE_UP
from fathom.families.names import place
from fathom.families.rope import alike, read_hf_rope, write_hf_rope
from fathom.families.values import Values, key
from fathom.model.config import ResolvedConfig

PART = 0.5  # of each head, where the file does not say


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    said = "partial_rotary_factor" in values or "partial_rotary_factor" in str(values.entries.get("rope_parameters"))
    entries = values.entries if said else {**values.entries, "partial_rotary_factor": PART}
    bias = values.get("attention_bias", bool, False)  # versions of transformers differ; tensors then say what is wrong
    head_dim = fields["head_dim"] or fields["d_model"] // max(1, fields["n_head"])
    rope = read_hf_rope(replace(values, entries=entries), fields["context_length"], head_dim)
    return {"bias": ("qkv",) if bias else (), **rope}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    names = {"architectures": ["GlmForCausalLM"], "model_type": "glm", "hidden_act": "silu", "pad_token_id": None}
    part = {"partial_rotary_factor": (z.rope.rotated or z.head_dim) / z.head_dim}
    return {**names, "attention_bias": bool(z.bias), **write_hf_rope(z), **part}


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    require("chatglm", z, head_dim=z.d_model // z.n_head)
    return {}


def holds(z: ResolvedConfig) -> bool:
    return z.bias == ("qkv",) and z.rope.rotated is not None and alike(z)


hf = llama.FAMILY.columns["hf"]
UP = {f"blocks.N.mlp.{x}": place(f"model.layers.N.mlp.gate_up_proj[{i}/2]") for i, x in enumerate(("gate", "up"), 1)}
PAIRS = {f"blocks.N.attn.{x}": place(f"model.layers.N.self_attn.{x}_proj[pairs]") for x in "qk"}

FAMILY = replace(
    llama.FAMILY,
    name="glm",
    title="GLM-4",
    free=("rope",),
    holds=holds,
    columns={
        "ours": llama.FAMILY.columns["ours"],
        "hf": replace(
            hf, ids=("glm",), read=read_hf, write=write_hf, tensors={**hf.tensors, **UP, **PAIRS},
            keys={
                **hf.keys, "n_kv_head": key("num_key_value_heads"), "head_dim": key("head_dim=128"),
                "norm_eps": key("rms_norm_eps=1.5625e-07"),
            },
        ),
        "gguf": column("chatglm", places(hf.tensors, cells={**QKV, **GATE_UP}, pairs=True), nothing, write_gguf),
    },
    classes=("GlmConfig", "GlmForCausalLM"),
)  # fmt: skip
