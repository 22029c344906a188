"""Tiny models of every architecture, all sizes distinct, with no weight at a value that hides a mistake."""

from dataclasses import replace

import torch
from hypothesis import strategies as st

from fathom.model.config import BIASES, CHOICES, Experts, Layers, ModelConfig, RopeScaling, Rotary, Scale
from fathom.model.transformer import Transformer

TINY = ModelConfig(vocab_size=37, context_length=23, d_model=20, n_layer=3, n_head=6, head_dim=4, d_ff=29)
GPT = replace(TINY, position="learned", norm="layer", mlp="gelu", bias=True, tie_embeddings=True)
LLAMA = replace(TINY, position="rope", norm="rms", mlp="swiglu", n_kv_head=2)

GEMMA = Scale(embed=20**0.5, attn=0.4, attn_cap=1.5, logit_cap=60.0)
LONGROPE = RopeScaling(kind="longrope", factor=2.0, original_context_length=64, short=(1.0, 1.3), long=(1.5, 4.0))

ARCHITECTURES = {
    "bigram": replace(TINY, n_layer=0, residual="off"),
    "bigram with position": replace(TINY, n_layer=0, position="learned", norm="layer", bias=True),
    "attention alone": TINY,
    "attention alone, no stream": replace(TINY, residual="off", bias=True),
    "no stream": replace(TINY, residual="off", mlp="gelu", position="learned"),
    "gpt": GPT,
    "gpt without bias": replace(GPT, bias=False, mlp="relu2"),
    "llama": LLAMA,
    "llama with bias": replace(LLAMA, bias=True, n_kv_head=3),
    "qkv bias": replace(LLAMA, bias=("qkv",)),
    "out and mlp bias": replace(GPT, bias=("mlp", "out")),
    "multi-query": replace(LLAMA, n_kv_head=1, tie_embeddings=True),
    "qk_norm": replace(LLAMA, qk_norm="on", mlp="relu2"),
    "qk_norm, learned": replace(GPT, qk_norm="on"),
    "qk_norm, layer": replace(LLAMA, norm="layer", qk_norm="layer", residual="parallel"),
    "gelu_exact": replace(GPT, mlp="gelu_exact"),
    "relu": replace(GPT, mlp="relu"),
    "xielu": replace(LLAMA, mlp="xielu", qk_norm="on"),
    "geglu": replace(LLAMA, mlp="geglu"),
    "linear": replace(LLAMA, rope=Rotary(scaling=RopeScaling(kind="linear", factor=3.0))),
    "llama3": replace(LLAMA, head_dim=10, rope=Rotary(scaling=RopeScaling(kind="llama3", factor=8.0))),
    "yarn": replace(LLAMA, head_dim=10, rope=Rotary(scaling=RopeScaling(kind="yarn", factor=4.0, beta_fast=3.0))),
    "longrope": replace(LLAMA, rope=Rotary(scaling=LONGROPE)),
    "yarn, not truncated": replace(
        LLAMA, head_dim=10, rope=Rotary(scaling=RopeScaling(kind="yarn", factor=4.0, beta_fast=3.0, truncate=False))
    ),
    "partly rotated": replace(LLAMA, head_dim=10, rope=Rotary(rotated=6, theta=300.0)),
    "window": replace(LLAMA, layers=Layers("l", 4)),
    "every kind of layer": replace(LLAMA, layers=Layers("lgn", 3), rope=Rotary(theta=1000.0, local_theta=50.0)),
    "local theta, unscaled": replace(
        LLAMA, layers=Layers("lg", 5), rope=Rotary(local_theta=40.0, scaling=RopeScaling(kind="linear", factor=3.0))
    ),
    "alibi": replace(GPT, position="alibi"),
    "alibi, one norm": replace(TINY, position="alibi", norm="layer", mlp="gelu", residual="parallel"),
    "layer_1p": replace(GPT, norm="layer_1p"),
    "rms_1p": replace(LLAMA, norm="rms_1p", qk_norm="on", residual="sandwich"),
    "layer_plain": replace(LLAMA, norm="layer_plain"),
    "rms_plain": replace(LLAMA, norm="rms_plain", qk_norm="rotated", scale=Scale(embed_norm=True)),
    "norm of embeddings": replace(GPT, scale=Scale(embed_norm=True, embed=2.0)),
    "normed after rotation": replace(LLAMA, qk_norm="rotated"),
    "bigram, norm of embeddings": replace(TINY, n_layer=0, norm="layer", bias=True, scale=Scale(embed_norm=True)),
    "post": replace(LLAMA, residual="post", qk_norm="whole"),
    "post, layer norm": replace(GPT, residual="post"),
    "experts": replace(LLAMA, mlp=Experts(5, 2)),
    "experts, shared": replace(LLAMA, mlp=Experts(4, 3, False, 7), d_ff=9),
    "experts, clamped": replace(LLAMA, mlp=Experts(3, 2, limit=2.0), bias=("qkv", "mlp", "sink")),
    "experts, biases": replace(LLAMA, mlp=Experts(3, 2, shared=5, dense=(1,), dense_ff=9), bias=("mlp", "norm")),
    "sinks": replace(LLAMA, layers=Layers("lg", 4), bias=("qkv", "out", "sink"), scale=Scale(attn_cap=3.0)),
    "experts, dense layers": replace(LLAMA, mlp=Experts(4, 2, dense=(0, 2), dense_ff=13)),
    "experts, sigmoid": replace(LLAMA, mlp=Experts(5, 2, shared=6, gated=False, weigh="sigmoid", scale=1.7)),
    "experts, mixer": replace(LLAMA, norm="layer", mlp=Experts(5, 2, False, weigh="mixer", near=0.2)),
    "sandwich": replace(LLAMA, residual="sandwich", mlp="geglu", scale=GEMMA),
    "sandwich, layer norm": replace(GPT, residual="sandwich", mlp="none"),
    "parallel": replace(GPT, residual="parallel", position="rope", tie_embeddings=False, bias=("mlp", "unembed")),
    "parallel, two norms": replace(GPT, residual="parallel_norms", position="rope", rope=Rotary(rotated=2)),
    "parallel attention alone": replace(GPT, residual="parallel", mlp="none"),
    "scaled": replace(LLAMA, scale=Scale(embed=3.0, attn=0.3, residual=0.7, logits=0.25)),
    "scores by layer": replace(GPT, scale=Scale(attn_by_layer=True)),
    "scaled, tied, biased": replace(GPT, scale=Scale(logits=2.0, residual=1.5), bias=("on", "unembed")),
}


# beyond its original context longrope rotates otherwise, so a text is read whole: no cache in pieces
BEYOND = {"longrope, beyond": replace(LLAMA, rope=Rotary(scaling=replace(LONGROPE, original_context_length=7)))}


def model_of(config: ModelConfig, std: float = 0.4) -> Transformer:
    """A model in eval mode whose weights, norms and biases are all drawn anew."""
    model = Transformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=std).add_(0.0 if parameter.dim() > 1 or config.norm.endswith("1p") else 1.0)
        for name, tensor in (*model.named_buffers(), *model.named_parameters()):
            if name.endswith(("router.correction", "router.bias")):  # small, so that every expert has tokens
                tensor.normal_(std=std / 8)
    return model


def ids_for(config: ModelConfig, batch: int = 2, t: int = 11) -> torch.Tensor:
    return torch.randint(config.vocab_size, (batch, t))


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    """Any architecture, with small sizes."""
    groups, per_group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    position = draw(st.sampled_from(CHOICES["position"]))
    head_dim = draw(st.sampled_from([2, 4, 6, 10]))
    residual, scale = draw(st.sampled_from(CHOICES["residual"])), draw(scales())
    return ModelConfig(
        vocab_size=draw(st.integers(2, 50)),
        context_length=draw(st.integers(13, 40)),
        d_model=draw(st.integers(3, 24)),
        n_layer=draw(st.integers(0, 3)),
        n_head=groups * per_group,
        n_kv_head=groups,
        head_dim=head_dim,
        d_ff=draw(st.none() | st.integers(1, 40)),
        position=position,
        norm=draw(st.sampled_from(CHOICES["norm"])),
        mlp=draw(st.sampled_from([*CHOICES["mlp"]])),
        residual=residual,
        bias=draw(st.booleans() | st.lists(st.sampled_from(BIASES), unique=True).map(tuple)),
        tie_embeddings=draw(st.booleans()),
        qk_norm=draw(st.sampled_from(CHOICES["qk_norm"])),
        rope=draw(ropes(head_dim, position == "rope")),
        layers=draw(layers()),
        scale=replace(scale, residual=1.0) if residual == "off" else scale,
    )


def ropes(head_dim: int, scaled: bool) -> st.SearchStrategy[Rotary]:
    return st.builds(
        Rotary,
        theta=st.sampled_from([100.0, 10_000.0, 500_000.0]),
        rotated=st.none() | st.integers(1, head_dim // 2).map(lambda pairs: 2 * pairs),
        local_theta=st.none() | st.sampled_from([50.0, 10_000.0]),
        scaling=st.none() | scalings() if scaled else st.none(),
    )


def layers() -> st.SearchStrategy[Layers]:
    """Half of them plain."""
    windowed = st.builds(Layers, st.sampled_from(["l", "lg", "gln", "lln"]), st.integers(1, 12))
    return st.just(Layers("g")) | st.just(Layers("gn")) | windowed


def scales() -> st.SearchStrategy[Scale]:
    """Half of them plain."""
    number, cap = st.just(1.0) | st.floats(0.2, 1.5), st.none() | st.floats(1, 30)
    scale = st.none() | st.floats(0.1, 1)
    return st.just(Scale()) | st.builds(
        Scale,
        embed=number,
        attn=scale,
        residual=number,
        logits=number,
        attn_cap=cap,
        logit_cap=cap,
        attn_by_layer=st.booleans(),
        embed_norm=st.booleans(),
    )


def scalings() -> st.SearchStrategy[RopeScaling]:
    return st.builds(
        RopeScaling,
        kind=st.sampled_from(["linear", "llama3", "yarn"]),
        factor=st.floats(1.5, 16),
        original_context_length=st.none() | st.integers(4, 30),
        high_freq_factor=st.sampled_from([2.0, 4.0]),
        beta_fast=st.sampled_from([3.0, 32.0]),
        truncate=st.booleans(),
    )
