"""OPT (Zhang et al. 2022): learned positions, LayerNorm, ReLU, biases. Its table of positions begins with two rows that
are never looked up. Written as a GPT-2, of which it is one with ReLU."""

from typing import Any

from fathom.families.family import Column, Family, Fields, Tensors
from fathom.families.names import columns, place
from fathom.families.values import Values, key
from fathom.model.config import BIASES

TENSORS = """
ours                 hf
embed                model.decoder.embed_tokens
position.table       model.decoder.embed_positions[2:]
blocks.N.attn_norm   model.decoder.layers.N.self_attn_layer_norm
blocks.N.attn.q      model.decoder.layers.N.self_attn.q_proj
blocks.N.attn.k      model.decoder.layers.N.self_attn.k_proj
blocks.N.attn.v      model.decoder.layers.N.self_attn.v_proj
blocks.N.attn.out    model.decoder.layers.N.self_attn.out_proj
blocks.N.mlp_norm    model.decoder.layers.N.final_layer_norm
blocks.N.mlp.up      model.decoder.layers.N.fc1
blocks.N.mlp.down    model.decoder.layers.N.fc2
final_norm           model.decoder.final_layer_norm
unembed              lm_head
"""
KEYS = """
ours            hf
vocab_size      vocab_size
context_length  max_position_embeddings
d_model         hidden_size
n_layer         num_hidden_layers
n_head          num_attention_heads
d_ff            ffn_dim
tie_embeddings  tie_word_embeddings=true
"""
ALLOWED: dict[str, tuple[Any, ...]] = {
    "activation_function": (None, "relu"),
    "do_layer_norm_before": (None, True),
    "_remove_final_layer_norm": (None, False),
    "enable_bias": (None, True),
    "layer_norm_elementwise_affine": (None, True),
}


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    values.require({"word_embed_proj_dim": (None, fields["d_model"])})
    return {"norm_eps": 1e-5}


tensors, keys = columns(TENSORS, place), columns(KEYS, key)
FAMILY = Family(
    name="opt",
    title="OPT",
    choices={"position": "learned", "norm": "layer", "mlp": "relu", "bias": BIASES[:4]},
    columns={
        "hf": Column(ids=("opt",), tensors=tensors["hf"], keys=keys["hf"], allowed=ALLOWED, read=read_hf),
    },
    classes=("OPTConfig", "OPTForCausalLM"),
    written_as="gpt2",
)
