"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm, GELU, biases; q, k and v are one matrix, c_attn.

Its first files leave `transformer.` away and carry masks among the weights; matrices are stored as (in, out).
"""

from typing import Any

from fathom.errors import FathomError
from fathom.families.family import Column, Family, Fields, Tensors
from fathom.families.names import columns, place
from fathom.families.values import Values, key
from fathom.model.config import ResolvedConfig, Scale
from fathom.model.presets import GPT2_CHOICES

TENSORS = """
ours                 hf                                      gguf
embed                transformer.wte                         token_embd
position.table       transformer.wpe                         position_embd
blocks.N.attn_norm   transformer.h.N.ln_1                    blk.N.attn_norm
blocks.N.attn.q      transformer.h.N.attn.c_attn.T[1/3]      blk.N.attn_qkv[1/3]
blocks.N.attn.k      transformer.h.N.attn.c_attn.T[2/3]      blk.N.attn_qkv[2/3]
blocks.N.attn.v      transformer.h.N.attn.c_attn.T[3/3]      blk.N.attn_qkv[3/3]
blocks.N.attn.out    transformer.h.N.attn.c_proj.T           blk.N.attn_output
blocks.N.mlp_norm    transformer.h.N.ln_2                    blk.N.ffn_norm
blocks.N.mlp.up      transformer.h.N.mlp.c_fc.T              blk.N.ffn_up
blocks.N.mlp.down    transformer.h.N.mlp.c_proj.T            blk.N.ffn_down
final_norm           transformer.ln_f                        output_norm
unembed              lm_head                                 output
"""
KEYS = """
ours            hf                        gguf
vocab_size      vocab_size                vocab_size
context_length  n_positions|n_ctx         context_length
d_model         n_embd                    embedding_length
n_layer         n_layer                   block_count
n_head          n_head                    attention.head_count
n_kv_head       -                         attention.head_count_kv?
d_ff            n_inner?                  feed_forward_length
norm_eps        layer_norm_epsilon=1e-5   attention.layer_norm_epsilon
tie_embeddings  tie_word_embeddings=true  -
"""
ALLOWED: dict[str, tuple[Any, ...]] = {
    "scale_attn_weights": (None, True),
    "reorder_and_upcast_attn": (None, False, True),  # in which order and precision scores are computed
}


BY_LAYER = "scale_attn_by_inverse_layer_idx"
ACTIVATIONS = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu": "gelu_exact", "relu": "relu"}  # -> our mlp


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    by_layer = values.get(BY_LAYER, bool, False)
    return {**read_activation(values), "scale": Scale(attn_by_layer=by_layer)}


def read_activation(values: Values) -> Fields:
    return {"mlp": values.choice("activation_function", ACTIVATIONS, "gelu_new")}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_ctx": z.context_length,
        "activation_function": next(name for name, mlp in ACTIVATIONS.items() if mlp == z.mlp),
        **({BY_LAYER: True} if z.scale.attn_by_layer else {}),
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), z.dropout),
    }


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    if z.mlp != "gelu":
        raise FathomError(f"mlp={z.mlp!r}, and GGUF's gpt2 has gelu alone; choose --format hf")
    if z.scale.attn_by_layer:
        raise FathomError("scale.attn_by_layer is true, which GGUF's gpt2 cannot say; choose --format hf")
    return {}


def square(z: ResolvedConfig) -> bool:
    """c_attn has three parts of d_model rows."""
    return z.d_model == z.n_head * z.head_dim == z.n_kv_head * z.head_dim and z.mlp in ACTIVATIONS.values()


def holds(z: ResolvedConfig) -> bool:
    return square(z) and z.scale in (Scale(), Scale(attn_by_layer=True))


tensors, keys = columns(TENSORS, place), columns(KEYS, key)
CHOICES = {name: value for name, value in GPT2_CHOICES.items() if name != "mlp"} | {"residual": "on", "qk_norm": "off"}
FAMILY = Family(
    name="gpt2",
    title="GPT-2",
    choices=CHOICES,
    free=("scale",),
    holds=holds,
    columns={
        "ours": Column(tensors=tensors["ours"]),
        "hf": Column(
            ids=("gpt2",), tensors=tensors["hf"], keys=keys["hf"], allowed=ALLOWED, read=read_hf, write=write_hf,
            prefix="transformer.", skipped=r"(.*\.)?attn\.(masked_)?bias",
        ),
        "gguf": Column(
            ids=("gpt2",), tensors=tensors["gguf"], keys=keys["gguf"], read=lambda *_: {"mlp": "gelu"},
            write=write_gguf,
        ),
    },
    classes=("GPT2Config", "GPT2LMHeadModel"),
)  # fmt: skip
