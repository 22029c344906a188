"""The two ends of the model: ids become vectors, and vectors become logits. Some models scale both and cap logits."""

import torch
from torch import Tensor, nn

from fathom.model.config import ResolvedConfig


class ScaledEmbedding(nn.Embedding):
    """Embeddings times a constant: sqrt(d) in Gemma."""

    def __init__(self, config: ResolvedConfig) -> None:
        super().__init__(config.vocab_size, config.d_model)
        self.scale = config.scale.embed

    def forward(self, ids: Tensor) -> Tensor:  # (b, t) -> (b, t, d)
        return super().forward(ids) * self.scale


class ScaledUnembed(nn.Linear):
    """Logits times a constant (Cohere, Granite), then softly capped: cap tanh(logits / cap) (Gemma 2)."""

    def __init__(self, config: ResolvedConfig) -> None:
        super().__init__(config.d_model, config.vocab_size, bias="unembed" in config.bias)
        self.scale, self.cap = config.scale.logits, config.scale.logit_cap

    def forward(self, x: Tensor) -> Tensor:  # (..., d) -> (..., V)
        return scaled(super().forward(x), self.scale, self.cap)


def scaled(logits: Tensor, scale: float, cap: float | None) -> Tensor:
    """cap tanh(scale logits / cap); None: without a cap."""
    logits = logits if scale == 1 else logits * scale
    return logits if cap is None else cap * torch.tanh(logits / cap)


def make_embed(config: ResolvedConfig) -> nn.Embedding:
    return nn.Embedding(config.vocab_size, config.d_model) if config.scale.embed == 1 else ScaledEmbedding(config)


def make_unembed(config: ResolvedConfig) -> nn.Linear:
    if config.scale.logits == 1 and config.scale.logit_cap is None:
        return nn.Linear(config.d_model, config.vocab_size, bias="unembed" in config.bias)
    return ScaledUnembed(config)
