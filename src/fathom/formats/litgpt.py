"""lit_model.pth and model_config.yaml of litgpt (github.com/Lightning-AI/litgpt, litgpt/config.py and model.py).

Its one model is made of choices, as ours is: those that are ours are read, and every other key must be off. Before
version 0.5 queries, keys and values were one tensor under another name, a head of keys with its queries together.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from fathom.errors import FathomError
from fathom.families.names import Place, columns, place
from fathom.families.values import Values
from fathom.fields import build
from fathom.formats.config_file import read_config
from fathom.formats.convert import equal
from fathom.formats.opened import Opened, Stored
from fathom.formats.other_names import under_our_names
from fathom.formats.saved_names import unwrapped
from fathom.formats.torch_file import open_pickle
from fathom.json_file import short
from fathom.model.config import ModelConfig, RopeScaling, Rotary
from fathom.tokenizer.load import read_folder

CONFIG, WEIGHTS = "model_config.yaml", "lit_model.pth"
NAMES = columns(
    """
ours                 litgpt                             old                                  gpt
embed                transformer.wte                    -                                    -
blocks.N.attn_norm   transformer.h.N.norm_1             -                                    -
blocks.N.attn.q      transformer.h.N.attn.qkv[1/3]      transformer.h.N.attn.attn[1/3]       -
blocks.N.attn.k      transformer.h.N.attn.qkv[2/3]      transformer.h.N.attn.attn[2/3]       -
blocks.N.attn.v      transformer.h.N.attn.qkv[3/3]      transformer.h.N.attn.attn[3/3]       -
blocks.N.attn.q_norm transformer.h.N.attn.norm_q        -                                    -
blocks.N.attn.k_norm transformer.h.N.attn.norm_k        -                                    -
blocks.N.attn.out    transformer.h.N.attn.proj          -                                    -
blocks.N.mlp_norm    transformer.h.N.norm_2             -                                    -
blocks.N.mlp.gate    transformer.h.N.mlp.fc_1           -                                    -
blocks.N.mlp.up      transformer.h.N.mlp.fc_2           -                                    transformer.h.N.mlp.fc
blocks.N.mlp.down    transformer.h.N.mlp.proj           -                                    -
final_norm           transformer.ln_f                   -                                    -
unembed              lm_head                            -                                    -
""",
    place,
)
MLP = {  # mlp_class_name, gelu_approximate -> ours
    ("LLaMAMLP", "none"): "swiglu", ("LLaMAMLP", "tanh"): "swiglu", ("GemmaMLP", "tanh"): "geglu",
    ("GptNeoxMLP", "none"): "gelu_exact", ("GptNeoxMLP", "tanh"): "gelu",
}  # fmt: skip
NORMS = {"LayerNorm": "layer", "RMSNorm": "rms"}
ALLOWED: dict[str, tuple[Any, ...]] = {  # what would change the model
    "post_attention_norm": (None, False),
    "post_mlp_norm": (None, False),
    "norm_qk_type": (None, "default"),
    "norm_1": (None, True),
    "norm_2": (None, True),
    "scale_embeddings": (None, False),
    "rope_interleave": (None, False),
    "attention_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "sliding_window_size": (None,),
    "rope_local_base_freq": (None,),
    "latent_attention": (None,),
    "n_expert": (None, 0),
}
READ = (
    "name", "hf_config", "block_size", "vocab_size", "padding_multiple", "padded_vocab_size", "n_layer", "n_head",
    "n_embd", "head_size", "n_query_groups", "attn_bias", "bias", "norm_class_name", "norm_eps", "norm_qk", "rope_base",
    "rope_condense_ratio", "rope_adjustments", "intermediate_size", "mlp_class_name", "gelu_approximate",
    "attention_scores_scalar", "org", "scale_embeddings", "n_expert_per_token", "routed_scaling_factor",
    "parallel_residual", "shared_attention_norm", "lm_head_bias", "rotary_percentage",
)  # fmt: skip
LLAMA3 = {"factor", "low_freq_factor", "high_freq_factor", "original_max_seq_len"}


def open_litgpt(path: Path) -> Opened:
    """The model in a folder of litgpt, or of the weights in it."""
    folder = path if path.is_dir() else path.parent
    values = Values(read_config(folder / CONFIG), str(folder / CONFIG))
    file = folder / WEIGHTS if path.is_dir() else path
    tensors = unwrapped(open_pickle(file), str(file))
    config = config_of(values, tensors)
    ours = under_our_names(config, names(config, tensors), tensors, str(file))
    name = values.entries.get("name")
    about = {"name": name} if isinstance(name, str) and 0 < len(name) < 200 else {}
    tokenizer = partial(read_folder, folder, config.vocab_size, [])
    return Opened(path, "litgpt", config, None, "ours", ours, tokenizer, about)


def names(config: ModelConfig, tensors: dict[str, Stored]) -> dict[str, Place]:
    """What this file calls our parts."""
    table = NAMES["litgpt"]
    if any(".attn.attn." in name for name in tensors):
        table = table | NAMES["old"]
    return table if config.mlp in ("swiglu", "geglu") else table | NAMES["gpt"]


def config_of(values: Values, tensors: dict[str, Stored]) -> ModelConfig:
    """The model that the settings describe. FathomError names a key and value that are not among our choices."""
    values.require(ALLOWED)
    for key, own in values.entries.items():
        if key not in ALLOWED and key not in READ and own not in (None, False, 0):
            raise values.error(f"{str(key)[:40]} is {short(own)}; expected no such key: it may change what is computed")
    mlp = values.get("mlp_class_name", str, "GptNeoxMLP"), values.get("gelu_approximate", str, "none")
    norm = values.get("norm_class_name", str, "LayerNorm")
    if mlp not in MLP or norm not in NORMS:
        known = ", ".join(dict.fromkeys(each for each, _ in MLP))
        raise values.error(
            f"mlp_class_name is {mlp[0]!r}, gelu_approximate {mlp[1]!r} and norm_class_name {norm!r}; expected one of"
            f" {known}, none or tanh, and {' or '.join(NORMS)}"
        )
    bias = values.get("bias", bool, True)
    parts = {
        "qkv": bias or values.get("attn_bias", bool, False), "out": bias, "mlp": bias, "norm": norm == "LayerNorm",
        "unembed": values.get("lm_head_bias", bool, False),
    }  # fmt: skip
    n_head, d_model = values.count("n_head"), values.count("n_embd")
    head_dim = values.count("head_size", max(1, d_model // n_head))
    if values.get("norm_qk", bool, False) and norm != "RMSNorm":
        raise values.error(f"norm_qk is True with {norm}; expected RMSNorm")
    if (scalar := values.entries.get("attention_scores_scalar")) not in (None, head_dim):
        raise values.error(f"attention_scores_scalar is {short(scalar)}; expected {head_dim}, the width of a head")
    if norm == "RMSNorm" and "Gemma" in str(values.entries.get("name")):
        raise values.error("name has Gemma, whose norms add one to their weights; expected another model")
    embed, unembed = (tensors.get(f"{NAMES['litgpt'][part].name}.weight") for part in ("embed", "unembed"))
    fields = {
        "vocab_size": values.count("padded_vocab_size"),
        "context_length": values.count("block_size"),
        "d_model": d_model,
        "n_layer": values.count("n_layer"),
        "n_head": n_head,
        "n_kv_head": values.count("n_query_groups", n_head),
        "head_dim": head_dim,
        "d_ff": values.count("intermediate_size", 4 * d_model),
        "position": "rope",
        "norm": NORMS[norm],
        "mlp": MLP[mlp],
        "bias": [part for part, present in parts.items() if present],
        "tie_embeddings": embed is not None and unembed is not None and equal(embed, unembed),
        "qk_norm": values.get("norm_qk", bool, False),
        "norm_eps": values.number("norm_eps", 1e-5),
        "residual": residual_of(values),
        "rope": rotary_of(values, head_dim),
    }
    config = build(ModelConfig, fields, values.where)
    try:
        config.resolved()
    except FathomError as problem:
        raise values.error(str(problem)) from None
    return config


def residual_of(values: Values) -> str:
    """Attention and MLP one after the other, or side by side, which read one norm or two (Pythia)."""
    parallel, shared = values.get("parallel_residual", bool, True), values.get("shared_attention_norm", bool, False)
    if shared and not parallel:
        raise values.error("shared_attention_norm is True with parallel_residual False; expected both True")
    return {(True, True): "parallel", (True, False): "parallel_norms"}.get((parallel, shared), "on")


def rotary_of(values: Values, head_dim: int) -> Rotary:
    """The rotation, of the first part of each head (a quarter where the file does not say)."""
    rotated = int(values.number("rotary_percentage", 0.25) * head_dim)
    theta = values.number("rope_base", 10_000.0)
    return Rotary(theta=theta, rotated=None if rotated == head_dim else rotated, scaling=scaling_of(values))


def scaling_of(values: Values) -> RopeScaling | None:
    """Llama 3's, or linear."""
    ratio, own = values.number("rope_condense_ratio", 1.0), values.entries.get("rope_adjustments")
    if own is None:
        return None if ratio == 1 else RopeScaling(kind="linear", factor=ratio)
    if not isinstance(own, dict) or own.keys() not in (LLAMA3, {"factor"}) or ratio != 1:
        raise values.error(f"rope_adjustments is {short(own)}; expected {', '.join(sorted(LLAMA3))}, or factor alone")
    inner = Values(own, f"{values.where}: rope_adjustments")
    factor = inner.number("factor")
    if own.keys() == {"factor"}:
        return RopeScaling(kind="linear", factor=factor)
    return RopeScaling(
        kind="llama3",
        factor=factor,
        low_freq_factor=inner.number("low_freq_factor"),
        high_freq_factor=inner.number("high_freq_factor"),
        original_context_length=inner.count("original_max_seq_len"),
    )
