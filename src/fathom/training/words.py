"""A model's config in words, as a page or a list says it."""

from collections.abc import Sequence

from fathom.model.config import Experts, ResolvedConfig, Scale
from fathom.words import counted

POSITIONS = {
    "none": "no positions",
    "learned": "learned positions",
    "rope": "rotary positions (RoPE)",
    "alibi": "ALiBi",
}
NORMS = {
    "none": "no normalisation",
    "layer": "LayerNorm",
    "rms": "RMSNorm",
    "layer_1p": "LayerNorm (1 + weight)",
    "rms_1p": "RMSNorm (1 + weight)",
    "layer_plain": "LayerNorm without weights",
    "rms_plain": "RMSNorm without weights",
}
RESIDUAL = {
    "off": "no residual stream",
    "post": "norms after attention and MLP instead of before",
    "sandwich": "norms before and after attention and MLP",
    "parallel": "attention and MLP in parallel",
    "parallel_norms": "attention and MLP in parallel, each with its own norm",
}
MLPS = {
    "none": "no MLP",
    "gelu": "an MLP with GELU",
    "gelu_exact": "an MLP with exact GELU",
    "relu": "an MLP with ReLU",
    "relu2": "an MLP with squared ReLU",
    "swiglu": "SwiGLU",
    "geglu": "GeGLU",
}


def in_words(config: ResolvedConfig) -> str:
    """`4 blocks of width 128, each with 4 attention heads, rotary positions (RoPE), RMSNorm and SwiGLU; ...`"""
    if not config.n_layer:
        return f"a bigram model of width {config.d_model:,}: the next token depends on the last one alone"
    blocks = counted(config.n_layer, "block")
    each = "" if config.n_layer == 1 else "each "
    parts = [
        heads(config),
        POSITIONS.get(config.position, f"positions: {config.position}"),
        NORMS.get(config.norm, f"norm: {config.norm}"),
        mlp_in_words(config.mlp),
    ]
    others = {
        RESIDUAL.get(config.residual, ""): config.residual != "on",
        "normalised queries and keys": config.qk_norm != "off",
        f"a window of {counted(config.layers.window or 0, 'token')} in layers {config.layers.pattern}": config.windowed,
        "scaled or capped activations": config.scale != Scale(),
        "one matrix for embedding and unembedding": config.tie_embeddings,
        f"dropout {config.dropout:g}": config.dropout > 0,
    }
    extras = [words for words, here in others.items() if here]
    text = f"{blocks} of width {config.d_model:,}, {each}with {listed(parts)}"
    return "; ".join([text, *extras, f"context of {counted(config.context_length, 'token')}"])


def heads(config: ResolvedConfig) -> str:
    named = counted(config.n_head, "attention head")
    if config.n_kv_head == config.n_head:
        return named
    return f"{named} that share {config.n_kv_head:,} {'keys and values' if config.n_kv_head > 1 else 'key and value'}"


def listed(parts: Sequence[str]) -> str:
    """`a, b and c`"""
    return " and ".join([", ".join(parts[:-1]), *parts[-1:]]) if len(parts) > 1 else "".join(parts)


def mlp_in_words(mlp: str | Experts) -> str:
    if isinstance(mlp, Experts):
        words = f"{counted(mlp.n, 'expert')}, {mlp.used} a token" + (" and a shared one" if mlp.shared else "")
        return words + f" (dense in {counted(len(mlp.dense), 'layer')})" * bool(mlp.dense)
    return MLPS.get(mlp, f"MLP: {mlp}")
