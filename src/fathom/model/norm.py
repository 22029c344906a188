"""Bring every vector of the stream to one scale before it is read.

LayerNorm (Ba et al. 2016, eq. 3-4) subtracts the mean and divides by the deviation; RMSNorm (Zhang & Sennrich 2019,
eq. 4) only divides by the root mean square. Each is written out as its equation; the module runs torch's fused form
of the same function, and tests hold the two equal in value and gradient.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.model.config import ResolvedConfig


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias, over the last dimension of x (..., d)."""
    centred = x - x.mean(-1, keepdim=True)
    normed = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    return normed * weight + (0 if bias is None else bias)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight, over the last dimension of x (..., d)."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


class LayerNorm(nn.Module):
    """`layer_norm` with learned weight (d,) and, where the config has biases, bias (d,)."""

    start = 1.0  # of the weight

    def __init__(self, width: int, eps: float, bias: bool) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.full((width,), self.start))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:  # (..., d) -> (..., d)
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """`rms_norm` with learned weight (d,)."""

    start = 1.0  # of the weight

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.full((width,), self.start))

    def forward(self, x: Tensor) -> Tensor:  # (..., d) -> (..., d)
        return F.rms_norm(x, self.weight.shape, self.weight.type_as(x), self.eps)  # one kernel needs one dtype


class LayerNorm1P(LayerNorm):
    """LayerNorm that multiplies by 1 + weight, so that weights decay towards the identity (Nemotron)."""

    start = 0.0

    def forward(self, x: Tensor) -> Tensor:  # (..., d) -> (..., d)
        return F.layer_norm(x, self.weight.shape, 1 + self.weight, self.bias, self.eps)


class RMSNorm1P(RMSNorm):
    """RMSNorm that multiplies by 1 + weight, added in fp32 (Gemma)."""

    start = 0.0

    def forward(self, x: Tensor) -> Tensor:  # (..., d) -> (..., d)
        return F.rms_norm(x.float(), self.weight.shape, 1 + self.weight.float(), self.eps).type_as(x)


class PlainLayerNorm(nn.Module):
    """`layer_norm` without weight and bias (OLMo)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.width, self.eps = width, eps

    def forward(self, x: Tensor) -> Tensor:  # (..., d) -> (..., d)
        return F.layer_norm(x, (self.width,), None, None, self.eps)


def gain(norm: nn.Module) -> Tensor | float:
    """What a norm multiplies by after it has normalised, (d,) or 1."""
    if isinstance(norm, LayerNorm1P | RMSNorm1P):
        return 1 + norm.weight
    return norm.weight if isinstance(norm, LayerNorm | RMSNorm) else 1.0


class WholeRMSNorm(RMSNorm):
    """`rms_norm` of all heads of a query or key as one vector (h * c,) (OLMo 2)."""

    def forward(self, x: Tensor) -> Tensor:  # (b, h, t, c) -> (b, h, t, c)
        whole = x.transpose(1, 2).flatten(2)
        normed = F.rms_norm(whole, self.weight.shape, self.weight.type_as(x), self.eps)
        return normed.unflatten(2, (x.shape[1], -1)).transpose(1, 2)


def make_qk_norm(config: ResolvedConfig, heads: int) -> nn.Module:
    """The norm of queries or of keys (b, heads, t, c), before rotation."""
    match config.qk_norm:
        case "on":
            kind = RMSNorm1P if config.norm == "rms_1p" else RMSNorm
            return kind(config.head_dim, config.norm_eps)
        case "whole":
            return WholeRMSNorm(heads * config.head_dim, config.norm_eps)
        case _:
            return nn.Identity()


def make_norm(config: ResolvedConfig) -> nn.Module:
    """A norm of the stream, or of what is added to it."""
    match config.norm:
        case "none":
            return nn.Identity()
        case "layer":
            return LayerNorm(config.d_model, config.norm_eps, bias="norm" in config.bias)
        case "rms":
            return RMSNorm(config.d_model, config.norm_eps)
        case "layer_1p":
            return LayerNorm1P(config.d_model, config.norm_eps, bias="norm" in config.bias)
        case "rms_1p":
            return RMSNorm1P(config.d_model, config.norm_eps)
        case "layer_plain":
            return PlainLayerNorm(config.d_model, config.norm_eps)
