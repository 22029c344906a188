"""How a token knows its position: three answers with one interface.

none: it does not; attention sees a bag of earlier tokens. learned: a vector for each position is added to the embedding
(GPT-2). rope: q and k are rotated by angles proportional to their position (Su et al. 2021), so that q . k depends on
the distance alone.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fathom.errors import ContextOverflow
from fathom.model.config import ResolvedConfig


def unrotated(x: Tensor) -> Tensor:
    return x


class NoPosition(nn.Module):
    """Order is invisible but for the causal mask."""

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:  # (b, t, d), (t,) or (b, t) -> (b, t, d)
        return x

    def rotation(self, positions: Tensor) -> Callable[[Tensor], Tensor]:
        """The function that rotates q or k (b, h, t, c) by these positions."""
        return unrotated

    def check_length(self, end: int) -> None:
        """ContextOverflow where the model has fewer than `end` positions."""


class LearnedPosition(NoPosition):
    """A learned vector for each of `context_length` positions."""

    def __init__(self, config: ResolvedConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(config.context_length, config.d_model)

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:  # (b, t, d), (t,) or (b, t) -> (b, t, d)
        return x + self.table(positions)

    def check_length(self, end: int) -> None:
        if end > self.table.num_embeddings:
            raise ContextOverflow(
                f"{end} tokens, but this model has learned positions for {self.table.num_embeddings}; shorten the text"
            )


class Rope(NoPosition):
    """Channels i and i + c/2 are the coordinates of a point, which is rotated by position * frequency_i."""

    frequency: Tensor

    def __init__(self, config: ResolvedConfig) -> None:
        super().__init__()
        self.config, self.scale = config, temperature(config)
        self.register_buffer("frequency", frequencies(config), persistent=False)

    def rotation(self, positions: Tensor) -> Callable[[Tensor], Tensor]:
        angle = positions[..., None, :, None].float() * self.frequency  # (..., 1, t, c/2)
        cos, sin = angle.cos() * self.scale, angle.sin() * self.scale

        def rotate(x: Tensor) -> Tensor:  # (b, h, t, c) -> (b, h, t, c)
            first, second = x.float().chunk(2, dim=-1)
            return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).type_as(x)

        return rotate

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Rope":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # follows the model to its device, but never to its dtype: angles stay fp32
        self.frequency = frequencies(self.config).to(self.frequency.device)
        return self


def frequencies(config: ResolvedConfig) -> Tensor:
    """(c/2,) radians per position: theta^(-2i/c), stretched as `rope_scaling` says."""
    c, scaling = config.head_dim, config.rope_scaling
    frequency = config.rope_theta ** -(torch.arange(0, c, 2, dtype=torch.float32, device="cpu") / c)
    if scaling is None:
        return frequency
    stretched, original = frequency / scaling.factor, scaling.original_context_length or config.context_length
    match scaling.kind:
        case "linear":
            return stretched
        case "llama3":  # keep = 1 for short wavelengths, 0 for long ones
            turns = original * frequency / (2 * math.pi)
            keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        case "yarn":  # the same ramp, but over channels, between the two whose turns are beta_fast and beta_slow
            low, high = (_channel(b, original, config) for b in (scaling.beta_fast, scaling.beta_slow))
            low, high = max(math.floor(low), 0), min(math.ceil(high), c - 1)
            keep = 1 - (torch.arange(c // 2, dtype=torch.float32, device="cpu") - low) / (high - low or 0.001)
    keep = keep.clamp(0, 1)
    return keep * frequency + (1 - keep) * stretched


def _channel(turns: float, original: int, config: ResolvedConfig) -> float:
    """The channel pair, as a real number, that makes this many turns within the original context (YaRN, eq. 23)."""
    return config.head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(config.rope_theta))


def temperature(config: ResolvedConfig) -> float:
    """What yarn multiplies q and k by, so that attention stays as sharp over longer contexts; 1 elsewhere."""
    scaling = config.rope_scaling
    if scaling is None or scaling.kind != "yarn":
        return 1.0
    return scaling.attention_factor or 0.1 * math.log(scaling.factor) + 1.0


def make_position(config: ResolvedConfig) -> NoPosition:
    """The module that this config asks for."""
    match config.position:
        case "none":
            return NoPosition()
        case "learned":
            return LearnedPosition(config)
        case "rope":
            return Rope(config)
