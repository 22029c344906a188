"""nanochat (Karpathy 2025): RMSNorms without weights, also of embeddings, and of queries and keys after rotation;
squared ReLU; logits softly capped. Its heads are rotated the other way, which is ours with their halves swapped."""

from dataclasses import replace
from typing import Any

from fathom.families import llama
from fathom.families.family import Column, Fields, Tensors
from fathom.families.names import columns, place
from fathom.families.rope import alike, read_hf_rope, write_hf_rope
from fathom.families.values import Values, key
from fathom.model.config import ResolvedConfig, Scale

TENSORS = """
ours                 hf
embed                model.embed_tokens
blocks.N.attn.q      model.layers.N.self_attn.q_proj[swap]
blocks.N.attn.k      model.layers.N.self_attn.k_proj[swap]
blocks.N.attn.v      model.layers.N.self_attn.v_proj
blocks.N.attn.out    model.layers.N.self_attn.o_proj
blocks.N.mlp.up      model.layers.N.mlp.fc1
blocks.N.mlp.down    model.layers.N.mlp.fc2
unembed              lm_head
"""
KEYS = """
ours            hf
vocab_size      vocab_size
context_length  max_position_embeddings=2048
d_model         hidden_size
n_layer         num_hidden_layers
n_head          num_attention_heads
n_kv_head       num_key_value_heads?
d_ff            intermediate_size
norm_eps        rms_norm_eps=1e-6
rope_theta      rope_theta=10000.0
tie_embeddings  tie_word_embeddings=false
"""
CAP = 15.0  # where the file does not say; null is none


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    bias = values.get("attention_bias", bool, False)
    name = "final_logit_softcapping"
    none = name in values.entries and name not in values
    return {
        "bias": ("qkv", "out") if bias else (),
        "scale": Scale(embed_norm=True, logit_cap=None if none else values.number(name, CAP)),
        **read_hf_rope(values, fields["context_length"]),
    }


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    return {
        "architectures": ["NanoChatForCausalLM"],
        "model_type": "nanochat",
        "hidden_act": "relu2",
        "attention_bias": bool(z.bias),
        "attention_dropout": z.dropout,
        "final_logit_softcapping": z.scale.logit_cap,
        **write_hf_rope(z),
    }


def holds(z: ResolvedConfig) -> bool:
    scale = Scale(embed_norm=True, logit_cap=z.scale.logit_cap)
    square = z.d_model == z.n_head * z.head_dim
    return z.bias in ((), ("qkv", "out")) and alike(z) and square and z.scale == scale


tensors, keys = columns(TENSORS, place), columns(KEYS, key)
hf = llama.FAMILY.columns["hf"]
ALLOWED = {**hf.allowed, "hidden_act": (None, "relu2"), "head_dim": (None,)}
FAMILY = replace(
    llama.FAMILY,
    name="nanochat",
    title="nanochat",
    choices={"position": "rope", "norm": "rms_plain", "mlp": "relu2", "qk_norm": "rotated"},
    free=("scale",),
    holds=holds,
    columns={
        "ours": Column(tensors=tensors["ours"]),
        "hf": replace(
            hf, ids=("nanochat",), tensors=tensors["hf"], keys=keys["hf"], allowed=ALLOWED, read=read_hf,
            write=write_hf, honoured=("final_logit_softcapping",),
        ),
    },
    classes=("NanoChatConfig", "NanoChatForCausalLM"),
)  # fmt: skip
