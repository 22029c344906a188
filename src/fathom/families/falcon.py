"""Falcon 7B (TII 2023): attention beside the MLP after one LayerNorm, and one head of keys and values; q, k and v are
one matrix. Falcon 2 11B has groups of heads; a file may also have the MLP after attention."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fathom.families.family import Column, Family, Fields, Tensors
from fathom.families.gguf_columns import LAYER_EPS, QKV, column, places, refusal, require
from fathom.families.gpt_neox import ACTIVATIONS
from fathom.families.names import columns, place
from fathom.families.rope import alike, read_hf_rope, write_hf_rope
from fathom.families.values import Values, key
from fathom.model.config import BIASES, ResolvedConfig

TENSORS = """
ours                 hf
embed                transformer.word_embeddings
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
context_length  max_position_embeddings=2048
d_model         hidden_size
n_layer         num_hidden_layers
n_head          num_attention_heads
norm_eps        layer_norm_epsilon=1e-5
tie_embeddings  tie_word_embeddings=true
"""
ALLOWED: dict[str, tuple[Any, ...]] = {
    "alibi": (None, False),  # theirs is divided by sqrt(c), in bf16
    "n_embed": (None,),
    "num_ln_in_parallel_attn": (None, 1),
}


def read_shared(values: Values, fields: Fields) -> Fields:
    """What all sizes have in common."""
    bias = BIASES[:4] if values.get("bias", bool, False) else ("norm",)
    rope = read_hf_rope(values, fields["context_length"])
    width = values.get("ffn_hidden_size", int, 4 * fields["d_model"])
    return {"d_ff": width, "mlp": values.choice("activation", ACTIVATIONS, "gelu"), "bias": bias, **rope}


def write_shared(z: ResolvedConfig) -> dict[str, Any]:
    return {
        "architectures": ["FalconForCausalLM"],
        "model_type": "falcon",
        "activation": next(name for name, mlp in ACTIVATIONS.items() if mlp == z.mlp),
        "alibi": False,
        "bias": "mlp" in z.bias,
        "ffn_hidden_size": z.d_ff,
        **write_hf_rope(z),
    }


def holds_shared(z: ResolvedConfig) -> bool:
    square = z.d_model == z.n_head * z.head_dim
    return square and alike(z) and z.mlp in ACTIVATIONS.values() and z.bias in (("norm",), BIASES[:4])


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    parallel = values.get("parallel_attn", bool, True)
    if values.get("new_decoder_architecture", bool, False):
        if not parallel:
            raise values.error("parallel_attn is false with the new decoder architecture; expected true")
        heads = values.count("num_kv_heads", fields["n_head"])
    else:
        heads = 1 if values.get("multi_query", bool, True) else fields["n_head"]
    return {**read_shared(values, fields), "residual": "parallel" if parallel else "on", "n_kv_head": heads}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    new = z.n_kv_head not in (1, z.n_head)
    norms = {"num_ln_in_parallel_attn": 1, "num_kv_heads": z.n_kv_head} if new else {}
    return {
        **write_shared(z),
        "new_decoder_architecture": new,
        "parallel_attn": z.residual == "parallel",
        "multi_query": z.n_kv_head == 1,
        **norms,
    }


def holds(z: ResolvedConfig) -> bool:
    return holds_shared(z) and (z.residual == "parallel" or (z.residual == "on" and z.n_kv_head in (1, z.n_head)))


def read_gguf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    """Biases are of norms alone. The layout of q, k and v is the only one known."""
    values.require({"tensor_data_layout": (None, "jploski")})
    return {"mlp": "gelu_exact", "residual": "parallel_norms" if SECOND in tensors else "parallel"}


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    require("falcon", z, mlp="gelu_exact", bias=("norm",))
    if z.residual == "on":
        raise refusal("falcon", "residual=on", "attention beside the MLP")
    return {"tensor_data_layout": "jploski"}


def one_norm(entries: Mapping[str, Any]) -> bool:
    """Whether attention and MLP of these files have no norms called ln_attn and ln_mlp."""
    return not entries.get("new_decoder_architecture") or entries.get("num_ln_in_parallel_attn") == 1


tensors, keys = columns(TENSORS, place), columns(KEYS, key)
SECOND = "blk.0.attn_norm_2.weight"  # which the 40B alone has
GGUF = [part for part in tensors["ours"] if part != "blocks.N.mlp_norm"]
FAMILY = Family(
    name="falcon",
    title="Falcon",
    choices={"position": "rope", "norm": "layer"},
    free=("residual",),
    holds=holds,
    columns={
        "ours": Column(tensors=tensors["ours"]),
        "hf": Column(
            ids=("falcon",), tensors=tensors["hf"], keys=keys["hf"], allowed=ALLOWED, read=read_hf, write=write_hf,
            applies=one_norm,
        ),
        "gguf": replace(
            column("falcon", places(GGUF, cells=QKV), read_gguf, write_gguf, eps=LAYER_EPS),
            applies=lambda tensors: SECOND not in tensors,
        ),
    },
    classes=("FalconConfig", "FalconForCausalLM"),
)  # fmt: skip
