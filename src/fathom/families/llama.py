"""LLaMA 1 to 3.2 (Touvron et al. 2023): rotary positions, RMSNorm, SwiGLU, grouped queries.

Meta's and GGUF files turn channels 2i and 2i + 1 together, ours and those of Hugging Face i and i + c/2. Meta's
params.json has the fields of `ModelArgs` in its `llama` and `llama-models`; what is missing follows from the tensors
and from which release it is.
"""

from typing import Any, cast

from fathom.errors import FathomError
from fathom.families.family import Column, Family, Fields, Tensors, config_of
from fathom.families.names import columns, place
from fathom.families.rope import gguf_rope_tensors, read_gguf_rope, read_hf_rope, write_gguf_rope, write_hf_rope
from fathom.families.values import Values, key
from fathom.model.config import Bias, ResolvedConfig, RopeScaling
from fathom.model.presets import LLAMA_CHOICES

TENSORS = """
ours                 hf                                      meta                          gguf
embed                model.embed_tokens                      tok_embeddings                token_embd
blocks.N.attn_norm   model.layers.N.input_layernorm          layers.N.attention_norm       blk.N.attn_norm
blocks.N.attn.q      model.layers.N.self_attn.q_proj         layers.N.attention.wq[pairs]  blk.N.attn_q[pairs]
blocks.N.attn.k      model.layers.N.self_attn.k_proj         layers.N.attention.wk[pairs]  blk.N.attn_k[pairs]
blocks.N.attn.v      model.layers.N.self_attn.v_proj         layers.N.attention.wv         blk.N.attn_v
blocks.N.attn.q_norm model.layers.N.self_attn.q_norm         -                             -
blocks.N.attn.k_norm model.layers.N.self_attn.k_norm         -                             -
blocks.N.attn.out    model.layers.N.self_attn.o_proj         layers.N.attention.wo         blk.N.attn_output
blocks.N.mlp_norm    model.layers.N.post_attention_layernorm layers.N.ffn_norm             blk.N.ffn_norm
blocks.N.mlp.gate    model.layers.N.mlp.gate_proj            layers.N.feed_forward.w1      blk.N.ffn_gate
blocks.N.mlp.up      model.layers.N.mlp.up_proj              layers.N.feed_forward.w3      blk.N.ffn_up
blocks.N.mlp.down    model.layers.N.mlp.down_proj            layers.N.feed_forward.w2      blk.N.ffn_down
final_norm           model.norm                              norm                          output_norm
unembed              lm_head                                 output                        output
"""
KEYS = """
ours            hf                         meta            gguf
vocab_size      vocab_size                 -               vocab_size
context_length  max_position_embeddings    -               context_length
d_model         hidden_size                dim             embedding_length
n_layer         num_hidden_layers          n_layers        block_count
n_head          num_attention_heads        n_heads         attention.head_count
n_kv_head       num_key_value_heads?       -               attention.head_count_kv?
head_dim        head_dim?                  -               attention.key_length?
d_ff            intermediate_size          -               feed_forward_length
norm_eps        rms_norm_eps=1e-6          norm_eps=1e-5   attention.layer_norm_rms_epsilon
rope_theta      rope_theta=10000.0         -               rope.freq_base=10000.0
tie_embeddings  tie_word_embeddings=false  -               -
"""
ALLOWED: dict[str, tuple[Any, ...]] = {
    "hidden_act": (None, "silu", "swish"),
    "sliding_window": (None,),
    "attention_chunk_size": (None,),
    "no_rope_layers": (None, []),
    "num_local_experts": (None,),
    "use_qk_norm": (None, False),
    "qk_norm": (None, False),
    "embedding_multiplier": (None, 1),
    "residual_multiplier": (None, 1),
    "attention_multiplier": (None,),
    "logits_scaling": (None, 1),
    "logit_scale": (None, 1),
}


def read_hf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    attention, mlp = (values.get(name, bool, False) for name in ("attention_bias", "mlp_bias"))
    return {"bias": biases(attention, attention, mlp), **read_hf_rope(values, fields["context_length"])}


def biases(qkv: bool, out: bool, mlp: bool) -> tuple[Bias, ...] | bool:
    """`bias` of a config; with all of them, as it is declared: norms have none here."""
    named = {"qkv": qkv, "out": out, "mlp": mlp}
    return all(named.values()) or tuple(cast(Bias, part) for part, present in named.items() if present)


def write_hf(z: ResolvedConfig) -> dict[str, Any]:
    if z.qk_norm != "off" or z.d_model % z.n_head:
        what = (
            f"qk_norm={z.qk_norm}"
            if z.qk_norm != "off"
            else f"d_model={z.d_model} is not a multiple of n_head={z.n_head}"
        )
        raise FathomError(f"{what}, and transformers has no LLaMA like that; keep the run directory")
    if ("qkv" in z.bias) != ("out" in z.bias):
        raise FathomError(f"bias={','.join(z.bias)}, and transformers' LLaMA has both qkv and out or neither")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": "qkv" in z.bias,
        "mlp_bias": "mlp" in z.bias,
        "attention_dropout": z.dropout,
        **write_hf_rope(z),
    }


def read_gguf(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    config = config_of(fields)
    head_dim = config.head_dim or max(1, config.d_model // config.n_head)
    for name in ("rope.dimension_count", "attention.value_length"):  # all channels are turned; v is as wide as q and k
        if (width := values.count(name, head_dim)) != head_dim:
            raise values.error(f"{values.prefix}{name} is {width}; expected {head_dim}, as a head has channels")
    values.number("rope.freq_base", 10_000.0, above=1.0)
    q, out, up = (f"blk.0.{name}.bias" in tensors for name in ("attn_q", "attn_output", "ffn_up"))
    bias = biases(q or "blk.0.attn_qkv.bias" in tensors, out, up)
    return {"bias": bias, "rope_scaling": read_gguf_rope(values, config, tensors)}


def write_gguf(z: ResolvedConfig) -> dict[str, Any]:
    return {"attention.value_length": z.head_dim, "rope.dimension_count": z.head_dim, **write_gguf_rope(z)}


# Meta's params.json. The width of the MLP is made from two fields: d_ff = multiple_of * ceil(floor(ffn_dim_multiplier *
# floor(8/3 dim)) / multiple_of). The context length is in no released file.

PARAMS = (
    "dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "ffn_dim_multiplier", "norm_eps",
    "rope_theta", "use_scaled_rope", "rope_scaling_factor", "max_seq_len", "max_batch_size",
)  # fmt: skip
CONTEXT = "max_seq_len"  # of ModelArgs: whoever runs Meta's code passes it
ORIGINAL = 8192  # the context of Llama 3, from which 3.1 was stretched
FACTOR, FACTOR_TIED = 8.0, 32.0  # of Llama 3.1, and of 3.2, which ties its embeddings


def read_params(values: Values, fields: Fields, tensors: Tensors) -> Fields:
    """vocab_size and d_ff are the rows of two tensors; the vocabulary size in the file of LLaMA 2 is -1."""
    embed, up = (meta_name(part) for part in ("embed", "blocks.N.mlp.up"))
    for name in (embed, up):
        shape = tensors[name].shape if name in tensors else ()
        if len(shape) != 2:
            raise values.error(f"{name!r} is {shape or 'missing'}; expected a matrix")
    rows = tensors[embed].shape[0]
    if (vocab_size := values.get("vocab_size", int, -1)) not in (-1, rows):
        raise values.error(f"vocab_size is {vocab_size}, but {embed!r} has {rows} rows; not of one model")
    scaling = None
    if values.get("use_scaled_rope", bool, False):
        factor = values.number("rope_scaling_factor", FACTOR_TIED if fields["tie_embeddings"] else FACTOR)
        if factor < 1:
            raise values.error(f"rope_scaling_factor is {factor}; expected 1 or more")
        scaling = RopeScaling(kind="llama3", factor=factor, original_context_length=ORIGINAL)
    return {
        "vocab_size": rows,
        "context_length": context_length(values, tensors[embed].kind)[0],
        "d_ff": tensors[up].shape[0],
        "n_kv_head": values.count("n_kv_heads") if "n_kv_heads" in values else None,
        "rope_theta": values.get("rope_theta", float, 10_000.0),
        "rope_scaling": scaling,
    }


def context_length(values: Values, kind: str) -> tuple[int, str]:
    """How many tokens the model was trained on at once, by what sets the releases apart, and that in words.

    kind: how the numbers are stored, such as F16.
    """
    theta = values.get("rope_theta", float, 10_000.0)
    if CONTEXT in values:
        return values.count(CONTEXT), f"as {CONTEXT} says"
    if values.get("use_scaled_rope", bool, False):
        return 131072, "as of Llama 3.1 and 3.2 (use_scaled_rope)"
    if theta == 500_000:
        return ORIGINAL, "as of Llama 3 (rope_theta 500000)"
    if theta == 1_000_000:
        return 16384, "as of Code Llama (rope_theta 1000000)"
    if kind == "F16" and values.get("norm_eps", float, 1e-5) == 1e-6:
        return 2048, "as of LLaMA 1 (norm_eps 1e-6, F16)"
    return 4096, "as of LLaMA 2"


def write_params(z: ResolvedConfig) -> dict[str, Any]:
    """The fields from which Meta's code builds this model. FathomError: it has something that no field says."""
    scaling = z.rope.scaling
    if z.bias or z.qk_norm != "off" or z.head_dim * z.n_head != z.d_model or z.n_layer < 1:
        raise FathomError(
            "Meta's format has no biases, qk_norm, other head_dim than d_model / n_head or models without layers"
        )
    if scaling is not None and scaling != RopeScaling(
        kind="llama3", factor=scaling.factor, original_context_length=ORIGINAL
    ):
        raise FathomError(f"Meta's format has no {scaling}; it has llama3 from a context of {ORIGINAL} alone")
    params: dict[str, Any] = {"vocab_size": z.vocab_size, "multiple_of": z.d_ff}  # the next multiple is d_ff itself
    if int(8 * z.d_model / 3) > z.d_ff:
        params["ffn_dim_multiplier"] = (z.d_ff + 0.5) / int(8 * z.d_model / 3)  # safe from rounding down
    params |= {"n_kv_heads": z.n_kv_head} if z.n_kv_head != z.n_head else {}  # LLaMA 1 has no such field
    params |= {"rope_theta": z.rope.theta} if z.rope.theta != 10_000 else {}  # and LLaMA 2 not this one
    return params if scaling is None else params | {"use_scaled_rope": True, "rope_scaling_factor": scaling.factor}


tensors, keys = columns(TENSORS, place), columns(KEYS, key)


def meta_name(part: str) -> str:
    """Meta's name of the weight of one of our parts, in the first layer."""
    return tensors["meta"][part].name.replace(".N.", ".0.") + ".weight"


FAMILY = Family(
    name="llama",
    title="LLaMA",
    choices={**LLAMA_CHOICES, "residual": "on"},
    columns={
        "ours": Column(tensors=tensors["ours"]),
        "hf": Column(
            ids=("llama",), tensors=tensors["hf"], keys=keys["hf"], allowed=ALLOWED, read=read_hf, write=write_hf,
            skipped=r"(.*\.)?rotary_emb\.inv_freq",
        ),
        "meta": Column(
            tensors=tensors["meta"], keys=keys["meta"], read=read_params, write=write_params, skipped=r"rope\.freqs",
        ),
        "gguf": Column(
            ids=("llama",), tensors=tensors["gguf"], keys=keys["gguf"], read=read_gguf, write=write_gguf,
            extra_tensors=gguf_rope_tensors, skipped=r"rope_freqs\.weight",
            applies=lambda metadata: not metadata.get("llama.expert_count"),
        ),
    },
    classes=("LlamaConfig", "LlamaForCausalLM"),
)  # fmt: skip
