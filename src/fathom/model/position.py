"""How a token knows its position: four answers with one interface.

none: it does not; attention sees a bag of earlier tokens. learned: a vector for each position is added to the embedding
(GPT-2). rope: q and k are rotated by angles proportional to their position (Su et al. 2021), so that q . k depends on
the distance alone. alibi: the distance, times a slope of each head, is taken from its scores (Press et al. 2022).
"""

import math
from collections.abc import Callable
from dataclasses import replace

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

    def rotation(self, positions: Tensor, kind: str = "g", end: int = 0) -> Callable[[Tensor], Tensor]:
        """The function that rotates q or k (b, h, t, c) by these positions, in layers of this kind (see `Layers`).
        end: how long the text is after this pass; of several rows the longest, which decides for longrope in all."""
        return unrotated

    def mask(self, visible: Tensor | None, positions: Tensor, s: int) -> Tensor | None:
        """`visible` for the tokens at these positions, the last of s, or a mask to be added to the scores, (h, t, s) or
        (b, h, t, s)."""
        return visible

    def check_length(self, end: int) -> None:
        """ContextOverflow where the model has fewer than `end` positions."""

    def continues(self, past: int, end: int) -> bool:
        """Whether a text of `past` tokens can grow to `end` without being read again."""
        return True


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
    """Channels i and i + r/2 of a head's first r are the coordinates of a point, which is rotated by
    position * frequency_i."""

    frequency: Tensor
    other: Tensor | None  # of layers with a window, or beyond longrope's original context; None: as everywhere

    def __init__(self, config: ResolvedConfig) -> None:
        super().__init__()
        self.config, self.scale, self.rotated = config, rope_scale(config), config.rope.rotated or config.head_dim
        longrope = config.rope.scaling is not None and config.rope.scaling.kind == "longrope"
        self.original = original_context(config) if longrope else None  # of longrope: where `other` begins
        self.register_buffer("frequency", frequencies(config), persistent=False)
        self.register_buffer("other", other_frequencies(config), persistent=False)

    def rotation(self, positions: Tensor, kind: str = "g", end: int = 0) -> Callable[[Tensor], Tensor]:
        if kind == "n":
            return unrotated
        local, r = kind == "l" and self.config.rope.local_theta is not None, self.rotated
        stretched = self.original is not None and end > self.original
        frequency = self.other if self.other is not None and (local or stretched) else self.frequency
        scale = 1.0 if local else self.scale
        angle = positions[..., None, :, None].float() * frequency  # (..., 1, t, r/2)
        cos, sin = angle.cos() * scale, angle.sin() * scale

        def rotate(x: Tensor) -> Tensor:  # (b, h, t, c) -> (b, h, t, c)
            first, second = x[..., :r].float().chunk(2, dim=-1)
            parts = first * cos - second * sin, second * cos + first * sin, x[..., r:]
            return torch.cat(parts, dim=-1).type_as(x)

        return rotate

    def continues(self, past: int, end: int) -> bool:
        return self.original is None or not 0 < past <= self.original < end

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Rope":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # follows the model to its device, but never to its dtype: angles stay fp32
        self.frequency = frequencies(self.config).to(self.frequency.device)
        if (other := other_frequencies(self.config)) is not None:
            self.other = other.to(self.frequency.device)
        return self


class Alibi(NoPosition):
    """Each head takes slope * distance from its scores, with a slope of its own."""

    def __init__(self, config: ResolvedConfig) -> None:
        super().__init__()
        self.slopes = alibi_slopes(config.n_head)  # no buffer: it follows the model to no other dtype

    def mask(self, visible: Tensor | None, positions: Tensor, s: int) -> Tensor:
        key = torch.arange(s, device=positions.device)
        distance = key[s - positions.shape[-1] :, None] - key  # (t, s)
        visible = distance >= 0 if visible is None else visible  # (t, s) or (b, 1, t, s)
        return (-self.slopes.to(key.device)[:, None, None] * distance).masked_fill(~visible, float("-inf"))


def alibi_slopes(n_head: int) -> Tensor:
    """(h,) 2^(-8i/h) for i from 1 on; where h is no power of two, those of the power below, and every other one of the
    power above."""
    power = 2 ** math.floor(math.log2(n_head))
    exponents = [8 * (i + 1) / power for i in range(power)]
    exponents += [4 * (2 * i + 1) / power for i in range(n_head - power)]
    return torch.tensor([2.0**-exponent for exponent in exponents], device="cpu")


def original_context(config: ResolvedConfig) -> int:
    """The context length before rotary frequencies were stretched."""
    scaling = config.rope.scaling
    return (scaling.original_context_length if scaling else None) or config.context_length


def other_frequencies(config: ResolvedConfig) -> Tensor | None:
    """(r/2,) radians per position of layers with a window, or beyond the original context; None: as everywhere."""
    if (theta := config.rope.local_theta) is not None:
        return frequencies(replace(config, rope=replace(config.rope, theta=theta, scaling=None)))
    scaling = config.rope.scaling
    if scaling is not None and scaling.kind == "longrope":
        return frequencies(replace(config, rope=replace(config.rope, scaling=replace(scaling, short=scaling.long))))
    return None


def frequencies(config: ResolvedConfig) -> Tensor:
    """(r/2,) radians per position: theta^(-2i/r), stretched as `rope.scaling` says; of longrope, by `short`."""
    r, scaling = config.rope.rotated or config.head_dim, config.rope.scaling
    frequency = config.rope.theta ** -(torch.arange(0, r, 2, dtype=torch.float32, device="cpu") / r)
    if scaling is None:
        return frequency
    stretched, original = frequency / scaling.factor, original_context(config)
    match scaling.kind:
        case "linear":
            return stretched
        case "longrope":
            return frequency / torch.tensor(scaling.short, dtype=torch.float32, device="cpu")
        case "llama3":  # keep = 1 for short wavelengths, 0 for long ones
            turns = original * frequency / (2 * math.pi)
            keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        case "yarn":  # the same ramp, but over channels, between the two whose turns are beta_fast and beta_slow
            low, high = (_channel(b, original, config) for b in (scaling.beta_fast, scaling.beta_slow))
            low, high = (math.floor(low), math.ceil(high)) if scaling.truncate else (low, high)
            low, high = max(low, 0), min(high, r - 1)
            keep = 1 - (torch.arange(r // 2, dtype=torch.float32, device="cpu") - low) / (high - low or 0.001)
    keep = keep.clamp(0, 1)
    return keep * frequency + (1 - keep) * stretched


def _channel(turns: float, original: int, config: ResolvedConfig) -> float:
    """The channel pair, as a real number, that makes this many turns within the original context (YaRN, eq. 23)."""
    r = config.rope.rotated or config.head_dim
    return r * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(config.rope.theta))


def rope_scale(config: ResolvedConfig) -> float:
    """What yarn and longrope multiply q and k by, so that attention stays as sharp over longer contexts; else 1."""
    scaling = config.rope.scaling
    if scaling is None or scaling.kind not in ("yarn", "longrope"):
        return 1.0
    if scaling.kind == "longrope" and scaling.attention_factor is None:
        return math.sqrt(1 + math.log(max(scaling.factor, 1.0)) / math.log(original_context(config)))
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
        case "alibi":
            return Alibi(config)
