"""Each position gathers from itself and the positions before it.

Attention(Q, K, V) = softmax(Q K^T / sqrt(c)) V  (Vaswani et al. 2017, eq. 1), with g <= h heads of keys and values
shared by the h query heads (Ainslie et al. 2023): g = h is multi-head, g = 1 multi-query. Positions come in as
`rotate`, the past as `cache`, and what may be seen as `visible`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fathom.model.cache import NoCache
from fathom.model.config import ResolvedConfig
from fathom.model.norm import make_qk_norm
from fathom.model.tap import tap

Rotate = Callable[[Tensor], Tensor]
View = tuple[Rotate, Tensor | None]  # rotation, and which positions are visible
Note = Callable[[str, Tensor], Tensor]


class Soft(NamedTuple):
    """What makes a softmax softer."""

    cap: float | None = None  # scores become cap tanh(scores / cap) (Gemma 2)
    sinks: Tensor | None = None  # of each head, (h,): a score that no key has, which takes its share (gpt-oss)


def unnoted(name: str, x: Tensor) -> Tensor:
    return x


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Tensor | None,
    dropout: float,
    note: Note = unnoted,
    *,
    soft: Soft | None = None,
) -> Tensor:
    """softmax(q k^T / sqrt(c) + mask) v, each step a line.

    q (b, h, t, c), k and v (b, g, s, c) -> (b, h, t, c). `visible` (t, s) or (b, 1, t, s) is true where a query may
    look, or is added to the scores (h, t, s), -inf where it may not; None: the last t of s positions, each seeing
    itself and all before it. `note` is shown scores and pattern.
    """
    cap, sinks = soft or Soft()
    visible = causal(q.shape[2], k.shape[2], q.device) if visible is None else visible
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = q @ k.mT / q.shape[-1] ** 0.5  # (b, h, t, s)
    scores = scores if cap is None else cap * torch.tanh(scores / cap)
    scores = scores.masked_fill(~visible, float("-inf")) if visible.dtype == torch.bool else scores + visible
    sink = [x[:, None, None].expand(*scores.shape[:3], 1) for x in (sinks,) if x is not None]  # a column, or none
    shares = torch.cat((note("scores", scores), *sink), -1).softmax(-1)
    pattern = note("pattern", shares[..., : k.shape[2]])  # (b, h, t, s)
    return F.dropout(pattern, dropout) @ v


def attend_fused(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, dropout: float, *, soft: Soft | None = None
) -> Tensor:
    """The same function in one kernel, without ever holding the (t, s) pattern; a softer softmax explicitly."""
    if soft is not None:
        return attend(q, k, v, visible, dropout, soft=soft)
    t, s = q.shape[2], k.shape[2]
    mask = causal(t, s, q.device) if visible is None and 1 < t < s else visible
    mask = mask if mask is None or mask.dtype == torch.bool else mask.type_as(q)
    whole = not (mask is not None or t != s)  # the kernel's own causal mask, not built; a bool for torch.compile too
    return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=whole, enable_gqa=q.shape[1] != k.shape[1])


def causal(t: int, s: int, device: torch.device) -> Tensor:
    """(t, s), true where query i of the last t of s positions may look: at keys 0 to s - t + i."""
    return torch.ones(t, s, dtype=torch.bool, device=device).tril(s - t)


def rotation_last(x: Tensor, norm: nn.Module, rotate: Rotate) -> Tensor:  # (b, h, t, c) -> (b, h, t, c)
    return rotate(norm(x))


def norm_last(x: Tensor, norm: nn.Module, rotate: Rotate) -> Tensor:  # (b, h, t, c) -> (b, h, t, c)
    return norm(rotate(x))


class Attention(nn.Module):
    """q asks, k is what each position can be found by, v is what it has to say; `out` writes back to the stream."""

    def __init__(self, config: ResolvedConfig, layer: int) -> None:
        super().__init__()
        d, c = config.d_model, config.head_dim
        self.layer, self.head_dim, self.dropout = layer, c, config.dropout
        self.q = nn.Linear(d, config.n_head * c, bias="qkv" in config.bias)
        self.k = nn.Linear(d, config.n_kv_head * c, bias="qkv" in config.bias)
        self.v = nn.Linear(d, config.n_kv_head * c, bias="qkv" in config.bias)
        self.out = nn.Linear(config.n_head * c, d, bias="out" in config.bias)
        self.q_norm, self.k_norm = make_qk_norm(config, config.n_head), make_qk_norm(config, config.n_kv_head)
        self.located = norm_last if config.qk_norm == "rotated" else rotation_last
        self.sharpness = 1.0 if config.scale.attn is None else config.scale.attn * c**0.5  # q times it, over sqrt(c)
        if config.scale.attn_by_layer:
            self.sharpness /= layer + 1
        self.cap = config.scale.attn_cap
        self.sinks = nn.Parameter(torch.zeros(config.n_head)) if "sink" in config.bias else None
        self.soft = () if self.cap is None and self.sinks is None else ("soft",)  # a plain softmax has no such argument
        self.attend: Callable[..., Tensor] = attend_fused

    def forward(self, x: Tensor, rotate: Rotate, visible: Tensor | None, cache: NoCache) -> Tensor:
        q, k, v = self.heads(self.q(x)), self.heads(self.k(x)), self.heads(self.v(x))  # (b, h, t, c)
        q, k = self.located(q, self.q_norm, rotate), self.located(k, self.k_norm, rotate)
        q = tap(self, "q_rot", q if self.sharpness == 1 else q * self.sharpness)  # (b, h, t, c)
        k = tap(self, "k_rot", k)  # (b, g, t, c)
        k, v = cache.append(self.layer, k, v)  # (b, g, s, c)
        soft = dict.fromkeys(self.soft, Soft(self.cap, self.sinks))
        z = self.attend(q, k, v, visible, self.dropout * self.training, **soft)  # (b, h, t, c)
        return self.out(z.transpose(1, 2).flatten(2))  # (b, t, d)

    def heads(self, x: Tensor) -> Tensor:  # (b, t, h * c) -> (b, h, t, c)
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
