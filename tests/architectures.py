"""Tiny models of every architecture, all sizes distinct, with no weight at a value that hides a mistake."""

from dataclasses import replace

import torch
from hypothesis import strategies as st

from fathom.model.config import CHOICES, ModelConfig, RopeScaling
from fathom.model.transformer import Transformer

TINY = ModelConfig(vocab_size=37, context_length=23, d_model=20, n_layer=3, n_head=6, head_dim=4, d_ff=29)
GPT = replace(TINY, position="learned", norm="layer", mlp="gelu", bias=True, tie_embeddings=True)
LLAMA = replace(TINY, position="rope", norm="rms", mlp="swiglu", n_kv_head=2)

ARCHITECTURES = {
    "bigram": replace(TINY, n_layer=0, residual=False),
    "bigram with position": replace(TINY, n_layer=0, position="learned", norm="layer", bias=True),
    "attention alone": TINY,
    "attention alone, no stream": replace(TINY, residual=False, bias=True),
    "no stream": replace(TINY, residual=False, mlp="gelu", position="learned"),
    "gpt": GPT,
    "gpt without bias": replace(GPT, bias=False, mlp="relu2"),
    "llama": LLAMA,
    "llama with bias": replace(LLAMA, bias=True, n_kv_head=3),
    "qkv bias": replace(LLAMA, bias=("qkv",)),
    "out and mlp bias": replace(GPT, bias=("mlp", "out")),
    "multi-query": replace(LLAMA, n_kv_head=1, tie_embeddings=True),
    "qk_norm": replace(LLAMA, qk_norm=True, mlp="relu2"),
    "qk_norm, learned": replace(GPT, qk_norm=True),
    "gelu_exact": replace(GPT, mlp="gelu_exact"),
    "relu": replace(GPT, mlp="relu"),
    "geglu": replace(LLAMA, mlp="geglu"),
    "linear": replace(LLAMA, rope_scaling=RopeScaling(kind="linear", factor=3.0)),
    "llama3": replace(LLAMA, head_dim=10, rope_scaling=RopeScaling(kind="llama3", factor=8.0)),
    "yarn": replace(LLAMA, head_dim=10, rope_scaling=RopeScaling(kind="yarn", factor=4.0, beta_fast=3.0)),
}


def model_of(config: ModelConfig, std: float = 0.4) -> Transformer:
    """A model in eval mode whose weights, norms and biases are all drawn anew."""
    model = Transformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=std).add_(1.0 if parameter.dim() == 1 else 0.0)
    return model


def ids_for(config: ModelConfig, batch: int = 2, t: int = 11) -> torch.Tensor:
    return torch.randint(config.vocab_size, (batch, t))


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    """Any architecture, with small sizes."""
    groups, per_group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    position = draw(st.sampled_from(["none", "learned", "rope"]))
    head_dim = draw(st.sampled_from([2, 4, 6, 10]))
    scaling = draw(st.none() | scalings()) if position == "rope" else None
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
        norm=draw(st.sampled_from(["none", "layer", "rms"])),
        mlp=draw(st.sampled_from([*CHOICES["mlp"]])),
        residual=draw(st.booleans()),
        bias=draw(st.booleans()),
        tie_embeddings=draw(st.booleans()),
        qk_norm=draw(st.booleans()),
        rope_theta=draw(st.sampled_from([100.0, 10_000.0, 500_000.0])),
        rope_scaling=scaling,
    )


def scalings() -> st.SearchStrategy[RopeScaling]:
    return st.builds(
        RopeScaling,
        kind=st.sampled_from(["linear", "llama3", "yarn"]),
        factor=st.floats(1.5, 16),
        original_context_length=st.none() | st.integers(4, 30),
        high_freq_factor=st.sampled_from([2.0, 4.0]),
        beta_fast=st.sampled_from([3.0, 32.0]),
    )
