"""How positions enter attention, seen from outside: what the model's own rotation does to a query and a key.

Also wrong on purpose: the channels of the other rope layout, and its angles, so that what they break can be seen. Rows
of a learned table are compared by their cosine; of alibi, the penalty is a slope of each head times the distance.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from fathom.inspect.edit import Edit
from fathom.inspect.edit import replace as replacing
from fathom.inspect.identities import TOLERANCES
from fathom.model.attention import Attention, rotation_last
from fathom.model.config import RopeScaling
from fathom.model.position import NoPosition, Rope
from fathom.model.transformer import Transformer

Scaling = Literal["none", "linear", "llama3", "yarn"]


@dataclass(frozen=True)
class Rotation:
    """The rotation of one layer in a text of `end` tokens: the model's own, or that of another position."""

    model: Transformer
    layer: int
    end: int = 0
    position: NoPosition | None = None

    @property
    def attn(self) -> Attention:
        return self.model.blocks[self.layer].attn

    @property
    def channels(self) -> int:
        """How many of a head are rotated, the first ones."""
        return self.model.config.rope.rotated or self.attn.head_dim

    def at(self, positions: Tensor) -> Callable[[Tensor], Tensor]:
        """The function that rotates q or k (b, h, t, c) by these positions (t,)."""
        return (self.position or self.model.position).rotation(positions, self.model.blocks[self.layer].kind, self.end)

    def reads(self, which: Literal["q", "k"], x: Tensor) -> Tensor:
        """What it is given of one token's queries or keys (h, c), in fp32: after their norm, where that comes first."""
        norm, x = self.attn.q_norm if which == "q" else self.attn.k_norm, x.float()
        return norm(x[None, :, None])[0, :, 0] if self.attn.located is rotation_last else x

    def frequency(self) -> Tensor:
        """(r/2,) the angle in radians by which one position turns each pair, as measured on the points (1, 0)."""
        unit = torch.zeros(1, 1, 1, self.attn.head_dim, device=self.device)
        unit[..., : self.channels // 2] = 1.0
        x, y = pairs(
            self.at(torch.ones(1, dtype=torch.long, device=self.device))(unit)[0, 0, 0, : self.channels]
        ).unbind(-1)
        return torch.atan2(y, x)

    @property
    def device(self) -> torch.device:
        return self.model.embed.weight.device


@dataclass(frozen=True)
class Turned:
    """One query and one key of a head, turned as if they stood at the positions 0 to n - 1.

    Coordinates are those of points: of r rotated channels, i and i + r/2 are a pair.
    """

    q: Tensor  # (r/2, 2) as rotation reads it
    k: Tensor  # (r/2, 2)
    q_at: Tensor  # (n, r/2, 2) at each position
    k_at: Tensor  # (n, r/2, 2)
    frequency: Tensor  # (r/2,) radians per position
    scores: Tensor  # (n, n) of the query at m with the key at n, before mask and cap
    parts: Tensor  # (n, r/2 + 1) of the score at each distance: what every pair adds, and what is not rotated
    off: dict[str, float]  # C8 on these numbers


def turned(rotation: Rotation, head: int, q: Tensor, k: Tensor, n: int) -> Turned:
    """One token's queries (h, c) and another's keys (g, c), as the projections give them, at the positions below n."""
    root, r = rotation.attn.sharpness / q.shape[-1] ** 0.5, rotation.channels
    rotate = rotation.at(torch.arange(n, device=q.device))
    before = rotation.reads("q", q)[head], rotation.reads("k", k)[head * len(k) // len(q)]  # (c,) each
    q_at, k_at = (rotate(x.expand(1, 1, n, -1))[0, 0] for x in before)  # (n, c)
    products = q_at * k_at[0] * root  # (n, c): with the key at 0
    parts = torch.cat((pairs(products[:, :r]).sum(-1), products[:, r:].sum(-1, keepdim=True)), -1)
    scores = q_at @ k_at.mT * root
    off = relative(scores, torch.stack(before), torch.stack((q_at, k_at)), temperature_of(rotation))
    q_points, k_points, q_all, k_all = (pairs(x[..., :r]) for x in (*before, q_at, k_at))
    return Turned(q_points, k_points, q_all, k_all, rotation.frequency(), scores, parts, off)


def relative(scores: Tensor, before: Tensor, at: Tensor, scale: Tensor) -> dict[str, float]:
    """C8 on scores (n, n) of q and k (2, c) at n positions (2, n, c): along a diagonal the score stays, rotation keeps
    norms, and position 0 changes nothing. Relative to the largest, where that is above 1."""
    size, largest = max(1.0, scores.abs().max().item()), max(1.0, before.norm(dim=-1).max().item())
    slid = (scores[1:, 1:] - scores[:-1, :-1]).abs().max().item() / size if len(scores) > 1 else 0.0
    at = at / scale
    norms = (at.norm(dim=-1) - before.norm(dim=-1)[:, None]).abs().max().item() / largest
    zero = (at[:, 0] - before).abs().max().item() / largest
    return dict(zip(TOLERANCES["rotation_is_relative"], (slid, norms, zero), strict=True))


def temperature_of(rotation: Rotation) -> Tensor:
    """(c,) by what rotation multiplies each channel beside turning it (yarn, longrope): what ones become at 0."""
    ones = torch.ones(1, 1, 1, rotation.attn.head_dim, device=rotation.device)
    return rotation.at(torch.zeros(1, dtype=torch.long, device=rotation.device))(ones)[0, 0, 0]


def score_of(rotation: Rotation, head: int, q: Tensor, k: Tensor, m: int, n: int) -> float:
    """The score of the query at m with the key at n, by the steps that the attention takes: what softmax reads, but for
    the mask. q (h, c), k (g, c)."""
    attn, rotate = rotation.attn, [rotation.at(torch.tensor([at], device=q.device)) for at in (m, n)]
    query = attn.located(q.float()[None, :, None], attn.q_norm, rotate[0])[0, head, 0] * attn.sharpness
    key = attn.located(k.float()[None, :, None], attn.k_norm, rotate[1])[0, head * len(k) // len(q), 0]
    score = query @ key / q.shape[-1] ** 0.5
    return float(attn.cap * torch.tanh(score / attn.cap) if attn.cap else score)


def over_distance(rotation: Rotation, head: int, q: Tensor, k: Tensor, distances: Tensor) -> Tensor:
    """(n,) the score at these distances (n,), before mask and cap: the query turned so far, the key at 0."""
    start = torch.zeros(1, dtype=torch.long, device=q.device)
    far = rotation.at(distances.to(q.device))(rotation.reads("q", q)[None, head, None].expand(1, 1, len(distances), -1))
    near = rotation.at(start)(rotation.reads("k", k)[head * len(k) // len(q)].expand(1, 1, 1, -1))
    return (far @ near.mT)[0, 0, :, 0] * rotation.attn.sharpness / q.shape[-1] ** 0.5


def pairs(x: Tensor) -> Tensor:
    """(..., r) -> (..., r/2, 2): channels i and i + r/2 as the coordinates of a point."""
    return x.unflatten(-1, (2, -1)).transpose(-1, -2)


def changed(
    model: Transformer, theta: float | None = None, scaling: Scaling | None = None, factor: float = 1.0
) -> NoPosition:
    """The rotation that this model would have with another base or other scaling."""
    config = model.config.resolved()
    rope = config.rope if theta is None else replace(config.rope, theta=theta, local_theta=None)
    if scaling == "none":
        rope = replace(rope, scaling=None)
    elif scaling is not None or factor != 1.0:
        rope = replace(rope, local_theta=None, scaling=RopeScaling(kind=scaling or "linear", factor=factor))
    return Rope(replace(config, rope=rope).resolved()).to(model.embed.weight.device)


class OtherAngles(Rope):
    """Wrong on purpose: channels i and i + r/2 as the points, and of each channel the angle of the interleaved layout,
    in which channels 2i and 2i + 1 have the same."""

    def rotation(self, positions: Tensor, kind: str = "g", end: int = 0) -> Callable[[Tensor], Tensor]:
        angle = (positions[..., None, :, None].float() * self.frequency).repeat_interleave(2, -1)  # (..., 1, t, r)
        r = self.rotated

        def rotate(x: Tensor) -> Tensor:  # (b, h, t, c) -> (b, h, t, c)
            first, second = x[..., :r].float().chunk(2, dim=-1)
            turned = x[..., :r] * angle.cos() + torch.cat((-second, first), -1) * angle.sin()
            return torch.cat((turned * self.scale, x[..., r:]), -1).type_as(x)

        return rotate


def other_angles(model: Transformer) -> NoPosition:
    """The rotation of this model with the angles of the other layout."""
    return OtherAngles(model.config.resolved()).to(model.embed.weight.device)


def from_interleaved(x: Tensor) -> Tensor:
    """Channels 2i and 2i + 1 of the last dimension moved to i and i + c/2."""
    return x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)


def to_interleaved(x: Tensor) -> Tensor:
    """Channels i and i + c/2 of the last dimension moved to 2i and 2i + 1."""
    return x.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)


def pairs_moved(move: Callable[[Tensor], Tensor], rotated: int | None = None) -> tuple[Edit, Edit]:
    """The edits that move the channels of every q and k: `to_interleaved` gives what a file of the other layout would
    give, read as it is. rotated: how many channels of each head there are to move, the first ones; None: all."""

    def first(x: Tensor) -> Tensor:
        return move(x) if rotated is None else torch.cat((move(x[..., :rotated]), x[..., rotated:]), -1)

    return replacing("blocks.*.attn.q", first), replacing("blocks.*.attn.k", first)


def by_distance(x: Tensor) -> Tensor:
    """(h, t, t) -> (h, t): the mean over all pairs of a query and a key at this distance; NaN where no key is seen."""
    h, t, _ = x.shape
    back = torch.arange(t, device=x.device)
    place = back[:, None] - back  # (t, t)
    seen = (place >= 0) & x.isfinite()
    sums = torch.zeros(h, t, dtype=torch.float64, device=x.device)
    where = place.clamp(min=0).expand(h, t, t).flatten(1)
    sums.scatter_add_(1, where, torch.where(seen, x, 0.0).double().flatten(1))
    counts = torch.zeros_like(sums).scatter_add_(1, where, seen.double().flatten(1))
    return (sums / counts).float()


def score_before_alibi(q: Tensor, k: Tensor, cap: float | None = None) -> Tensor:
    """(h, t, s) q · k / sqrt(c) of q (t, h, c) and k (s, g, c), each head with its group's keys."""
    own = k.transpose(0, 1).repeat_interleave(q.shape[1] // k.shape[1], 0)  # (h, s, c)
    scores = q.transpose(0, 1) @ own.mT / q.shape[-1] ** 0.5
    return scores if cap is None else cap * torch.tanh(scores / cap)


def cosines(rows: Tensor) -> Tensor:
    """(n, d) -> (n, n): the cosine of every two rows."""
    unit = torch.nn.functional.normalize(rows.float(), dim=-1)
    return unit @ unit.mT
