"""config.json of Hugging Face and ModelConfig, there and back: LLaMA (2 to 3.2) and GPT-2.

Read is what decides which function the model is; a field that would make it another one is refused by name, the rest
(dropout, initialisation, caches) is left alone. Names and defaults are those of transformers. Knows no tensor.
"""

from collections.abc import Mapping
from typing import Any

from fathom.errors import FathomError
from fathom.formats.hf_rope import read_rope, write_rope
from fathom.formats.names import family
from fathom.json_file import field, short
from fathom.model.config import ModelConfig, ResolvedConfig

NONE, OFF = (None,), (None, False)
HARMLESS: dict[str, tuple[Any, ...]] = {  # fields that make another model, but for these values
    "quantization_config": NONE,
    "is_encoder_decoder": OFF,
    "add_cross_attention": OFF,
    "attn_logit_softcapping": NONE,
    "final_logit_softcapping": NONE,
}
HARMLESS_LLAMA = HARMLESS | {
    "hidden_act": (None, "silu", "swish"),
    "sliding_window": NONE,
    "attention_chunk_size": NONE,
    "no_rope_layers": (None, []),
    "num_local_experts": NONE,
    "use_qk_norm": OFF,
    "qk_norm": OFF,
    "embedding_multiplier": (None, 1),
    "residual_multiplier": (None, 1),
    "attention_multiplier": NONE,
    "logits_scaling": (None, 1),
    "logit_scale": (None, 1),
}
HARMLESS_GPT2 = HARMLESS | {
    "activation_function": (None, "gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (None, True),
    "scale_attn_by_inverse_layer_idx": OFF,
    "reorder_and_upcast_attn": OFF,
}


def from_hf_config(values: Mapping[str, Any], where: str) -> ModelConfig:
    """The model that the object of config.json describes; `where` names the file in errors."""
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in READERS:
        raise FathomError(
            f"{where}: model_type is {short(kind)}, architectures {short(values.get('architectures'))};"
            f" supported are {', '.join(READERS)}"
        )
    try:
        config = READERS[kind](values, where)
        config.resolved()
    except FathomError as problem:
        said = str(problem)
        raise problem if said.startswith(where) else FathomError(f"{where}: {said}") from None
    return config


def _refuse(values: Mapping[str, Any], harmless: Mapping[str, tuple[Any, ...]], where: str) -> None:
    """FathomError where a field says that this is another function."""
    for name, known in harmless.items():
        if (value := values.get(name)) not in known:
            method = f" by {short(value.get('quant_method'))}" if isinstance(value, dict) else ""
            raise FathomError(
                f"{where}: {name} is {short(value)}{method}; expected {' or '.join(map(repr, known))}, since any other"
                " makes a model that is not supported"
            )


def _count(values: Mapping[str, Any], name: str, where: str, default: int | None = None) -> int:
    number = field(values, name, int, where, default)
    if number < 1:
        raise FathomError(f"{where}: {name} is {number}; it must be at least 1")
    return number


def _read_llama(values: Mapping[str, Any], where: str) -> ModelConfig:
    _refuse(values, HARMLESS_LLAMA, where)
    biases = [field(values, name, bool, where, False) for name in ("attention_bias", "mlp_bias")]
    if biases[0] != biases[1]:
        raise FathomError(
            f"{where}: attention_bias is {biases[0]}, mlp_bias {biases[1]}; supported are both or neither"
        )
    n_head, context_length = (_count(values, n, where) for n in ("num_attention_heads", "max_position_embeddings"))
    theta, scaling = read_rope(values, context_length, where)
    return ModelConfig(
        vocab_size=_count(values, "vocab_size", where),
        context_length=context_length,
        d_model=_count(values, "hidden_size", where),
        n_layer=_count(values, "num_hidden_layers", where),
        n_head=n_head,
        n_kv_head=_count(values, "num_key_value_heads", where, n_head),
        head_dim=None if values.get("head_dim") is None else _count(values, "head_dim", where),
        d_ff=_count(values, "intermediate_size", where),
        position="rope",
        norm="rms",
        mlp="swiglu",
        bias=biases[0],
        tie_embeddings=field(values, "tie_word_embeddings", bool, where, False),
        norm_eps=field(values, "rms_norm_eps", float, where, 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
    )


def _read_gpt2(values: Mapping[str, Any], where: str) -> ModelConfig:
    _refuse(values, HARMLESS_GPT2, where)
    length = "n_positions" if values.get("n_positions") is not None else "n_ctx"  # as the first files call it
    return ModelConfig(
        vocab_size=_count(values, "vocab_size", where),
        context_length=_count(values, length, where),
        d_model=_count(values, "n_embd", where),
        n_layer=_count(values, "n_layer", where),
        n_head=_count(values, "n_head", where),
        d_ff=None if values.get("n_inner") is None else _count(values, "n_inner", where),
        position="learned",
        norm="layer",
        mlp="gelu",
        bias=True,
        tie_embeddings=field(values, "tie_word_embeddings", bool, where, True),
        norm_eps=field(values, "layer_norm_epsilon", float, where, 1e-5),
    )


READERS = {"llama": _read_llama, "gpt2": _read_gpt2}


def to_hf_config(config: ModelConfig) -> dict[str, Any]:
    """The object of config.json: what transformers, version 4 or 5, builds the same model from."""
    z = config.resolved()
    return WRITERS[family(z)](z) | {"vocab_size": z.vocab_size, "tie_word_embeddings": z.tie_embeddings}


def _write_llama(z: ResolvedConfig) -> dict[str, Any]:
    if z.qk_norm or z.d_model % z.n_head:
        what = "qk_norm=True" if z.qk_norm else f"d_model={z.d_model} is no multiple of n_head={z.n_head}"
        raise FathomError(f"{what}, and transformers has no such LLaMA; keep the run directory")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": z.d_model,
        "intermediate_size": z.d_ff,
        "num_hidden_layers": z.n_layer,
        "num_attention_heads": z.n_head,
        "num_key_value_heads": z.n_kv_head,
        "head_dim": z.head_dim,
        "max_position_embeddings": z.context_length,
        "rms_norm_eps": z.norm_eps,
        "hidden_act": "silu",
        "attention_bias": z.bias,
        "mlp_bias": z.bias,
        "attention_dropout": z.dropout,
        **write_rope(z),
    }


def _write_gpt2(z: ResolvedConfig) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_embd": z.d_model,
        "n_inner": z.d_ff,
        "n_layer": z.n_layer,
        "n_head": z.n_head,
        "n_positions": z.context_length,
        "n_ctx": z.context_length,
        "layer_norm_epsilon": z.norm_eps,
        "activation_function": "gelu_new",
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), z.dropout),
    }


WRITERS = {"llama": _write_llama, "gpt2": _write_gpt2}
