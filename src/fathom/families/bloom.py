"""BLOOM (BigScience 2022): ALiBi, and a LayerNorm of the embeddings; q, k and v of a head lie one after another."""

from typing import Any

from fathom.families.family import Column, Family, Fields, Tensors
from fathom.families.gguf_columns import LAYER_EPS, QKV, column, places, require
from fathom.families.names import columns, place
from fathom.families.values import Values, key
from fathom.model.config import BIASES, ResolvedConfig, Scale

TENSORS = """
ours                 hf
embed                transformer.word_embeddings
embed_norm           transformer.word_embeddings_layernorm
blocks.N.attn_norm   transformer.h.N.input_layernorm
blocks.N.attn.q      transformer.h.N.self_attention.query_key_value[1/3g]
blocks.N.attn.k      transformer.h.N.self_attention.query_key_value[2/3g]
blocks.N.attn.v      transformer.h.N.self_attention.query_key_value[3/3g]
blocks.N.attn.out    transformer.h.N.self_attention.dense
blocks.N.mlp_norm    transformer.h.N.post_attention_layernorm
blocks.N.mlp.up      transformer.h.N.mlp.dense_h_to_4h
blocks.N.mlp.down    transformer.h.N.mlp.dense_4h_to_h
final_norm           transformer.ln_f
unembed              lm_head
"""
KEYS = """
ours            hf
vocab_size      vocab_size
context_length  seq_length=2048
d_model         hidden_size|n_embed
n_layer         n_layer|num_hidden_layers
n_head          n_head|num_attention_heads
norm_eps        layer_norm_epsilon=1e-5
tie_embeddings  tie_word_embeddings=true
"""
ALLOWED: dict[str, tuple[Any, ...]] = {"apply_residual_connection_post_layernorm": (None, False)}


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    return {"d_ff": 4 * fields["d_model"]}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    return {
        "architectures": ["BloomForCausalLM"],
        "model_type": "bloom",
        "apply_residual_connection_post_layernorm": False,
    }


def read_gguf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    values.require({"attention.max_alibi_bias": (None, 8.0)})
    return {}


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    require("bloom", z, tie_embeddings=True)
    return {}


def holds(z: ResolvedConfig) -> bool:
    square = z.d_model == z.n_head * z.head_dim == z.n_kv_head * z.head_dim
    return square and z.d_ff == 4 * z.d_model


tensors, keys = columns(TENSORS, place), columns(KEYS, key)
FAMILY = Family(
    name="bloom",
    title="BLOOM",
    choices={
        "position": "alibi", "norm": "layer", "mlp": "gelu", "bias": BIASES[:4], "scale": Scale(embed_norm=True),
    },
    holds=holds,
    columns={
        "ours": Column(tensors=tensors["ours"]),
        "hf": Column(
            ids=("bloom",), tensors=tensors["hf"], keys=keys["hf"], allowed=ALLOWED, read=read_hf, write=write_hf,
            prefix="transformer.",
        ),
        "gguf": column("bloom", places(tensors["ours"], cells=QKV), read_gguf, write_gguf, eps=LAYER_EPS, rope=False),
    },
    classes=("BloomConfig", "BloomForCausalLM"),
)  # fmt: skip
