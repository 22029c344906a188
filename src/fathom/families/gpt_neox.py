"""GPT-NeoX and Pythia (Black et al. 2022; Biderman et al. 2023): attention beside the MLP, each with its norm; a part
of each head is rotated; q, k and v of a head lie one after another."""

from typing import Any

from fathom.families.family import Column, Family, Fields, Tensors
from fathom.families.gguf_columns import LAYER_EPS, QKV, column, places, require
from fathom.families.names import columns, place
from fathom.families.rope import alike, read_hf_rope, write_hf_rope
from fathom.families.values import Values, key
from fathom.json_file import short
from fathom.model.config import BIASES, ResolvedConfig

TENSORS = """
ours                 hf
embed                gpt_neox.embed_in
blocks.N.attn_norm   gpt_neox.layers.N.input_layernorm
blocks.N.attn.q      gpt_neox.layers.N.attention.query_key_value[1/3g]
blocks.N.attn.k      gpt_neox.layers.N.attention.query_key_value[2/3g]
blocks.N.attn.v      gpt_neox.layers.N.attention.query_key_value[3/3g]
blocks.N.attn.out    gpt_neox.layers.N.attention.dense
blocks.N.mlp_norm    gpt_neox.layers.N.post_attention_layernorm
blocks.N.mlp.up      gpt_neox.layers.N.mlp.dense_h_to_4h
blocks.N.mlp.down    gpt_neox.layers.N.mlp.dense_4h_to_h
final_norm           gpt_neox.final_layer_norm
unembed              embed_out
"""
KEYS = """
ours            hf
vocab_size      vocab_size
context_length  max_position_embeddings
d_model         hidden_size
n_layer         num_hidden_layers
n_head          num_attention_heads
d_ff            intermediate_size
norm_eps        layer_norm_eps=1e-5
tie_embeddings  tie_word_embeddings=false
"""
ALLOWED: dict[str, tuple[Any, ...]] = {"attention_bias": (None, True), "head_dim": (None,)}
ACTIVATIONS = {
    "gelu": "gelu_exact",
    "gelu_new": "gelu",
    "gelu_fast": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "relu": "relu",
}
PART = 0.25  # of each head that is rotated, where the file does not say


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    parallel = values.get("use_parallel_residual", bool, True)
    entries, nested = dict(values.entries), values.entries.get("rope_parameters") or {}
    given = {"rope_theta": entries.get("rotary_emb_base"), "partial_rotary_factor": entries.get("rotary_pct")}
    if given["partial_rotary_factor"] is None:
        given["partial_rotary_factor"] = PART
    entries |= {key: value for key, value in given.items() if value is not None and key not in nested}
    for ours, theirs in (("rope_theta", "rotary_emb_base"), ("partial_rotary_factor", "rotary_pct")):
        if ours in values and theirs not in values and ours not in nested:
            raise values.error(f"{ours} is {short(values.entries[ours])}; GPT-NeoX calls it {theirs}, name it so")
    head_dim = fields["d_model"] // max(1, fields["n_head"])
    rope = read_hf_rope(Values(entries, values.where), fields["context_length"], head_dim)
    mlp, residual = values.choice("hidden_act", ACTIVATIONS, "gelu"), "parallel_norms" if parallel else "on"
    return {"mlp": mlp, "residual": residual, **rope}


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "hidden_act": next(name for name, mlp in ACTIVATIONS.items() if mlp == z.mlp),
        "use_parallel_residual": z.residual == "parallel_norms",
        "rotary_emb_base": z.rope.theta,
        "rotary_pct": (z.rope.rotated or z.head_dim) / z.head_dim,
        **write_hf_rope(z),
    }


def read_gguf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    """The file does not name the activation. The models published with config.json have the exact GELU there, which is
    what transformers computes; llama.cpp computes its tanh form, which `fathom info` says."""
    parallel = values.get("use_parallel_residual", bool, True)
    return {"mlp": "gelu_exact", "residual": "parallel_norms" if parallel else "on"}


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    require("gptneox", z, mlp="gelu_exact", tie_embeddings=False)
    return {"use_parallel_residual": z.residual == "parallel_norms"}


def holds(z: ResolvedConfig) -> bool:
    square = z.d_model == z.n_head * z.head_dim == z.n_kv_head * z.head_dim
    return square and alike(z) and z.mlp in ACTIVATIONS.values() and z.residual in ("on", "parallel_norms")


tensors, keys = columns(TENSORS, place), columns(KEYS, key)

FAMILY = Family(
    name="gpt_neox",
    title="GPT-NeoX",
    choices={"position": "rope", "norm": "layer", "bias": BIASES[:4]},
    free=("residual", "rope"),
    holds=holds,
    columns={
        "ours": Column(tensors=tensors["ours"]),
        "hf": Column(
            ids=("gpt_neox",), tensors=tensors["hf"], keys=keys["hf"], allowed=ALLOWED, read=read_hf, write=write_hf,
            skipped=r"(.*\.)?attention\.(masked_bias|bias|rotary_emb\.inv_freq)",
        ),
        "gguf": column("gptneox", places(tensors["ours"], cells=QKV), read_gguf, write_gguf, eps=LAYER_EPS),
    },
    classes=("GPTNeoXConfig", "GPTNeoXForCausalLM"),
)  # fmt: skip
