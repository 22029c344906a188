"""GPT-J (Wang & Komatsuzaki 2021): attention beside the MLP after one norm; the first channels of each head are
rotated, 2i and 2i + 1 together; biases in the MLP, the norms and the unembedding."""

from typing import Any

from fathom.families import gpt2
from fathom.families.family import Column, Family, Fields, Tensors
from fathom.families.names import columns, place
from fathom.families.values import Values, key
from fathom.model.config import ResolvedConfig, Rotary

TENSORS = """
ours                 hf
embed                transformer.wte
blocks.N.attn_norm   transformer.h.N.ln_1
blocks.N.attn.q      transformer.h.N.attn.q_proj[pairs]
blocks.N.attn.k      transformer.h.N.attn.k_proj[pairs]
blocks.N.attn.v      transformer.h.N.attn.v_proj
blocks.N.attn.out    transformer.h.N.attn.out_proj
blocks.N.mlp.up      transformer.h.N.mlp.fc_in
blocks.N.mlp.down    transformer.h.N.mlp.fc_out
final_norm           transformer.ln_f
unembed              lm_head
"""
KEYS = """
ours            hf
vocab_size      vocab_size
context_length  n_positions
d_model         n_embd
n_layer         n_layer
n_head          n_head
d_ff            n_inner?
norm_eps        layer_norm_epsilon=1e-5
tie_embeddings  tie_word_embeddings=false
rope_rotated    rotary_dim=64
"""
ALLOWED: dict[str, tuple[Any, ...]] = {"scale_attn_weights": (None, True), "rotary": (None, True)}


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    if values.entries.get("rotary_dim", 64) is None:
        raise values.error("rotary_dim is null; expected how many channels of each head are rotated")
    return gpt2.read_activation(values)


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    names = {"architectures": ["GPTJForCausalLM"], "model_type": "gptj"}
    return {**gpt2.write_hf(z), **names, "rotary_dim": z.rope.rotated or z.head_dim}


def holds(z: ResolvedConfig) -> bool:
    square = z.d_model == z.n_head * z.head_dim == z.n_kv_head * z.head_dim
    return square and z.mlp in gpt2.ACTIVATIONS.values() and z.rope == Rotary(rotated=z.rope.rotated)


tensors, keys = columns(TENSORS, place), columns(KEYS, key)
FAMILY = Family(
    name="gptj",
    title="GPT-J",
    choices={"position": "rope", "norm": "layer", "bias": ("mlp", "norm", "unembed"), "residual": "parallel"},
    free=("rope", "unembed"),
    holds=holds,
    columns={
        "ours": Column(tensors=tensors["ours"]),
        "hf": Column(
            ids=("gptj",), tensors=tensors["hf"], keys=keys["hf"], allowed=ALLOWED, read=read_hf, write=write_hf,
            skipped=r"(.*\.)?attn\.(masked_)?bias",
        ),
    },
    classes=("GPTJConfig", "GPTJForCausalLM"),
)  # fmt: skip
