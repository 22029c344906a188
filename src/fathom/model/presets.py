"""Known models as values. GPT-2 and LLaMA 2 are the same Transformer with four words changed.

The ladder of `fathom.training.presets` leads from a bigram to LLaMA, one field at a time.
"""

from dataclasses import replace
from typing import Any

from fathom.model.config import BIASES, ModelConfig

GPT2_CHOICES: dict[str, Any] = {"position": "learned", "norm": "layer", "mlp": "gelu", "bias": BIASES[:4]}
LLAMA_CHOICES: dict[str, Any] = {"position": "rope", "norm": "rms", "mlp": "swiglu"}

GPT2 = ModelConfig(
    vocab_size=50257,
    context_length=1024,
    d_model=768,
    n_layer=12,
    n_head=12,
    tie_embeddings=True,
    **GPT2_CHOICES,
)

LLAMA2_7B = ModelConfig(
    vocab_size=32000,
    context_length=4096,
    d_model=4096,
    n_layer=32,
    n_head=32,
    d_ff=11008,
    **LLAMA_CHOICES,
)
LLAMA2_13B = replace(LLAMA2_7B, d_model=5120, n_layer=40, n_head=40, d_ff=13824)
LLAMA2_70B = replace(LLAMA2_7B, d_model=8192, n_layer=80, n_head=64, n_kv_head=8, d_ff=28672)

BIGRAM = ModelConfig(vocab_size=65, context_length=64, d_model=128, n_layer=0)
