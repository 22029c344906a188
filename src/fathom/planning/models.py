"""Known models by name, as values: those whose training was published. Does not import torch."""

from dataclasses import replace

from fathom.model.config import ModelConfig, Rotary
from fathom.model.presets import GPT2, LLAMA2_7B, LLAMA2_13B, LLAMA2_70B

LLAMA_3 = replace(LLAMA2_7B, vocab_size=128256, context_length=8192, n_kv_head=8, rope=Rotary(theta=500_000.0))
MODELS: dict[str, ModelConfig] = {
    "gpt2": GPT2,
    "gpt2-medium": replace(GPT2, d_model=1024, n_layer=24, n_head=16),
    "gpt2-large": replace(GPT2, d_model=1280, n_layer=36, n_head=20),
    "gpt2-xl": replace(GPT2, d_model=1600, n_layer=48, n_head=25),
    "tinyllama-1.1b": replace(
        LLAMA2_7B, context_length=2048, d_model=2048, n_layer=22, n_head=32, n_kv_head=4, d_ff=5632
    ),
    "llama-7b": replace(LLAMA2_7B, context_length=2048),
    "llama-13b": replace(LLAMA2_13B, context_length=2048),
    "llama-33b": replace(LLAMA2_7B, context_length=2048, d_model=6656, n_layer=60, n_head=52, d_ff=17920),
    "llama-65b": replace(LLAMA2_70B, context_length=2048, n_kv_head=64, d_ff=22016),
    "llama-2-7b": LLAMA2_7B,
    "llama-2-13b": LLAMA2_13B,
    "llama-2-70b": LLAMA2_70B,
    "llama-3-8b": replace(LLAMA_3, d_ff=14336),
    "llama-3-70b": replace(LLAMA_3, d_model=8192, n_layer=80, n_head=64, d_ff=28672),
    "llama-3.1-405b": replace(LLAMA_3, d_model=16384, n_layer=126, n_head=128, d_ff=53248),
}
