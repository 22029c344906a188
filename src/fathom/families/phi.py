"""Phi-1.5 and Phi-2 (Li et al. 2023): attention beside the MLP after one norm, biases everywhere, and rotation of a
part of each head."""

from dataclasses import replace
from typing import Any

from fathom.families import gpt_neox
from fathom.families.family import Column, Family, Fields, Tensors
from fathom.families.gguf_columns import LAYER_EPS, QKV, column, places, require
from fathom.families.names import columns, place
from fathom.families.rope import alike, read_hf_rope, write_hf_rope
from fathom.families.values import Values, key
from fathom.model.config import BIASES, ResolvedConfig

TENSORS = """
ours                 hf
embed                model.embed_tokens
blocks.N.attn_norm   model.layers.N.input_layernorm
blocks.N.attn.q      model.layers.N.self_attn.q_proj
blocks.N.attn.k      model.layers.N.self_attn.k_proj
blocks.N.attn.v      model.layers.N.self_attn.v_proj
blocks.N.attn.out    model.layers.N.self_attn.dense
blocks.N.mlp.up      model.layers.N.mlp.fc1
blocks.N.mlp.down    model.layers.N.mlp.fc2
final_norm           model.final_layernorm
unembed              lm_head
"""
KEYS = """
ours            hf
vocab_size      vocab_size
context_length  max_position_embeddings
d_model         hidden_size
n_layer         num_hidden_layers
n_head          num_attention_heads
n_kv_head       num_key_value_heads?
d_ff            intermediate_size
norm_eps        layer_norm_eps=1e-5
tie_embeddings  tie_word_embeddings=false
"""
ALLOWED: dict[str, tuple[Any, ...]] = {"qk_layernorm": (None, False)}
PART = 0.5  # of each head that is rotated, where the file does not say


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    return {"mlp": values.choice("hidden_act", gpt_neox.ACTIVATIONS, "gelu_new"), **read_part(values, fields, PART)}


def read_part(values: Values, fields: Fields, part: float) -> Fields:
    """The rotation, of this part of each head where the file does not say."""
    nested = values.entries.get("rope_parameters") or {}
    said = "partial_rotary_factor" in values or (isinstance(nested, dict) and "partial_rotary_factor" in nested)
    entries = values.entries if said else {**values.entries, "partial_rotary_factor": part}
    head_dim = fields.get("head_dim") or fields["d_model"] // max(1, fields["n_head"])
    return read_hf_rope(replace(values, entries=entries), fields["context_length"], head_dim)


def write_part(z: ResolvedConfig) -> dict[str, Any]:
    """The fields of the rotation, with the part of each head."""
    rope, part = write_hf_rope(z), {"partial_rotary_factor": (z.rope.rotated or z.head_dim) / z.head_dim}
    return {**rope, **part, "rope_parameters": {**rope["rope_parameters"], **part}}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    names = {"architectures": ["PhiForCausalLM"], "model_type": "phi", "qk_layernorm": False}
    act = next(name for name, mlp in gpt_neox.ACTIVATIONS.items() if mlp == z.mlp)
    return {**names, "hidden_act": act, **write_part(z)}


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    require("phi2", z, mlp="gelu", tie_embeddings=False, bias=BIASES[:5])
    return {}


def holds(z: ResolvedConfig) -> bool:
    return alike(z) and z.d_model == z.n_head * z.head_dim and z.mlp in gpt_neox.ACTIVATIONS.values()


tensors, keys = columns(TENSORS, place), columns(KEYS, key)

FAMILY = Family(
    name="phi",
    title="Phi",
    choices={"position": "rope", "norm": "layer", "bias": BIASES[:5], "residual": "parallel"},
    free=("rope", "unembed"),
    holds=holds,
    columns={
        "ours": Column(tensors=tensors["ours"]),
        "hf": Column(
            ids=("phi",), tensors=tensors["hf"], keys=keys["hf"], allowed=ALLOWED, read=read_hf, write=write_hf,
            skipped=r"(.*\.)?rotary_emb\.inv_freq",
        ),
        "gguf": column(
            "phi2", places(tensors["ours"], cells=QKV), lambda *_: {"mlp": "gelu"}, write_gguf, eps=LAYER_EPS
        ),
    },
    classes=("PhiConfig", "PhiForCausalLM"),
)  # fmt: skip
