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


class Norm(nn.Module):
    """A norm over `width` numbers, with a learned weight and bias, (d,), where it has them."""

    plus = 0.0  # what is added to the weight

    def __init__(self, width: int, eps: float, bias: bool = False, *, weight: bool = True) -> None:
        super().__init__()
        self.width, self.eps = width, eps
        self.weight = nn.Parameter(torch.full((width,), 1.0 - self.plus)) if weight else None
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    @property
    def gain(self) -> Tensor | None:
        """What it multiplies by after it has normalised, (d,)."""
        return self.weight + self.plus if self.weight is not None and self.plus else self.weight


class LayerNorm(Norm):
    """(x - mean) / sqrt(variance + eps) * weight + bias, which is `layer_norm`"""

    def forward(self, x: Tensor) -> Tensor:  # (..., d) -> (..., d)
        return F.layer_norm(x, (self.width,), self.weight, self.bias, self.eps)


class LayerNorm1P(LayerNorm):
    """LayerNorm that multiplies by 1 + weight, so that weights decay towards the identity (Nemotron)."""

    plus = 1.0
    weight: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:  # (..., d) -> (..., d)
        return F.layer_norm(x, (self.width,), 1 + self.weight, self.bias, self.eps)


class RMSNorm(Norm):
    """x / sqrt(mean(x^2) + eps) * weight, which is `rms_norm`"""

    def forward(self, x: Tensor) -> Tensor:  # (..., d) -> (..., d)
        weight = None if self.weight is None else self.weight.type_as(x)  # one kernel needs one dtype
        return F.rms_norm(x, (self.width,), weight, self.eps)


class RMSNorm1P(RMSNorm):
    """RMSNorm that multiplies by 1 + weight, added in fp32 (Gemma)."""

    plus = 1.0
    weight: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:  # (..., d) -> (..., d)
        return F.rms_norm(x.float(), (self.width,), 1 + self.weight.float(), self.eps).type_as(x)


class WholeRMSNorm(RMSNorm):
    """`rms_norm` of all heads of a query or key as one vector (h * c,) (OLMo 2)."""

    weight: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:  # (b, h, t, c) -> (b, h, t, c)
        normed = F.rms_norm(x.transpose(1, 2).flatten(2), (self.width,), self.weight.type_as(x), self.eps)
        return normed.unflatten(2, (x.shape[1], -1)).transpose(1, 2)


class HeadsLayerNorm(LayerNorm):
    """`layer_norm` of each head of a query or key, with weights of its own, (h * c,) (Command-R+)."""

    weight: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:  # (b, h, t, c) -> (b, h, t, c)
        normed = F.layer_norm(x, x.shape[-1:], eps=self.eps)
        return (normed * self.weight.view(x.shape[1], 1, -1)).type_as(x)


NORMS: dict[str, type[Norm]] = {
    "layer": LayerNorm, "layer_plain": LayerNorm, "layer_1p": LayerNorm1P,
    "rms": RMSNorm, "rms_plain": RMSNorm, "rms_1p": RMSNorm1P,
}  # fmt: skip


def make_norm(config: ResolvedConfig) -> nn.Module:
    """A norm of the stream, or of what is added to it."""
    if config.norm == "none":
        return nn.Identity()
    weight, bias = not config.norm.endswith("plain"), config.norm in ("layer", "layer_1p") and "norm" in config.bias
    return NORMS[config.norm](config.d_model, config.norm_eps, weight=weight, bias=bias)


def make_qk_norm(config: ResolvedConfig, heads: int) -> nn.Module:
    """The norm of queries or of keys (b, heads, t, c)."""
    match config.qk_norm:
        case "off":
            return nn.Identity()
        case "whole":
            return WholeRMSNorm(heads * config.head_dim, config.norm_eps)
        case "layer":
            return HeadsLayerNorm(heads * config.head_dim, config.norm_eps)
        case "on" | "rotated":
            kind = RMSNorm1P if config.norm == "rms_1p" else RMSNorm
            return kind(config.head_dim, config.norm_eps, weight=config.norm != "rms_plain")
