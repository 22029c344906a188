"""Small random models whose next token hangs on all of their context, so that a wrong context shows in the tokens."""

from typing import Any

import torch

from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer

CONTEXT = 160
GPT = {"n_layer": 2, "n_head": 4, "position": "learned", "norm": "layer", "mlp": "gelu", "bias": True}
KINDS: dict[str, dict[str, Any]] = {
    "gpt": GPT | {"tie_embeddings": True},
    "llama": {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "position": "rope", "norm": "rms", "mlp": "swiglu"},
    "no position": {"n_layer": 2, "n_head": 2, "norm": "rms", "mlp": "relu2"},
    "bigram": {"n_layer": 0},
}


def random_model(kind: str, vocab_size: int = 256, context_length: int = CONTEXT, **changes: Any) -> Transformer:
    torch.manual_seed(1)
    sizes = {"vocab_size": vocab_size, "context_length": context_length, "d_model": 32}
    model = Transformer(ModelConfig(**sizes | KINDS[kind] | changes))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.copy_(torch.randn_like(weight) * (0.5 if weight.ndim < 2 else 1.5 * weight.shape[-1] ** -0.5))
    return model.eval()
