"""MPT (MosaicML 2023): ALiBi, LayerNorms without bias, and no biases at all; q, k and v are one matrix."""

from typing import Any

from fathom.families.family import Column, Family, Fields, Tensors
from fathom.families.gguf_columns import LAYER_EPS, QKV, column, places
from fathom.families.names import columns, place
from fathom.families.values import Values, key
from fathom.json_file import short
from fathom.model.config import ResolvedConfig

TENSORS = """
ours                 hf
embed                transformer.wte
blocks.N.attn_norm   transformer.blocks.N.norm_1
blocks.N.attn.q      transformer.blocks.N.attn.Wqkv[1/3]
blocks.N.attn.k      transformer.blocks.N.attn.Wqkv[2/3]
blocks.N.attn.v      transformer.blocks.N.attn.Wqkv[3/3]
blocks.N.attn.out    transformer.blocks.N.attn.out_proj
blocks.N.mlp_norm    transformer.blocks.N.norm_2
blocks.N.mlp.up      transformer.blocks.N.ffn.up_proj
blocks.N.mlp.down    transformer.blocks.N.ffn.down_proj
final_norm           transformer.norm_f
unembed              lm_head
"""
KEYS = """
ours            hf
vocab_size      vocab_size
context_length  max_seq_len
d_model         d_model
n_layer         n_layers
n_head          n_heads
norm_eps        layer_norm_epsilon=1e-5
tie_embeddings  tie_word_embeddings=true
"""
ALLOWED: dict[str, tuple[Any, ...]] = {
    "no_bias": (None, True),
    "norm_type": (None, "low_precision_layernorm", "layernorm"),
    "logit_scale": (None,),
    "use_norm_bias": (None, False),
    "expansion_ratio": (None, 4),
}
ATTENTION: dict[str, tuple[Any, ...]] = {
    "alibi": (True,),
    "alibi_bias_max": (None, 8),
    "attn_type": (None, "multihead_attention"),
    "attn_uses_sequence_id": (None, False),
    "clip_qkv": (None,),
    "prefix_lm": (None, False),
    "qk_ln": (None, False),
    "softmax_scale": (None,),
}


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    attention = values.entries.get("attn_config") or {}
    if not isinstance(attention, dict):
        raise values.error(f"attn_config is {short(attention)}; expected fields")
    Values({"alibi": True, **attention}, f"{values.where}: attn_config").require(ATTENTION)
    return {"d_ff": 4 * fields["d_model"]}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    return {
        "architectures": ["MptForCausalLM"],
        "model_type": "mpt",
        "expansion_ratio": 4,
        "no_bias": True,
        "attn_config": {"alibi": True, "alibi_bias_max": 8, "attn_type": "multihead_attention"},
    }


def read_gguf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    values.require({"attention.max_alibi_bias": (8.0,)})
    return {}


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    return {"attention.max_alibi_bias": 8.0}


def holds(z: ResolvedConfig) -> bool:
    square = z.d_model == z.n_head * z.head_dim == z.n_kv_head * z.head_dim
    return square and z.d_ff == 4 * z.d_model


tensors, keys = columns(TENSORS, place), columns(KEYS, key)
FAMILY = Family(
    name="mpt",
    title="MPT",
    choices={"position": "alibi", "norm": "layer", "mlp": "gelu_exact", "bias": ()},
    holds=holds,
    columns={
        "ours": Column(tensors=tensors["ours"]),
        "hf": Column(
            ids=("mpt",), tensors=tensors["hf"], keys=keys["hf"], allowed=ALLOWED, read=read_hf, write=write_hf
        ),
        "gguf": column("mpt", places(tensors["ours"], cells=QKV), read_gguf, write_gguf, eps=LAYER_EPS, rope=False),
    },
    classes=("MptConfig", "MptForCausalLM"),
)
