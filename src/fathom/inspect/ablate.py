"""Take parts of a model away and see what changes: heads, layers, or what one token takes from another.

A head is taken away where it writes its own numbers, z, and never from slices of what attention adds to the stream:
`out` mixes all heads into every channel. What stands in its place is nothing, the mean over the tokens of the prompt,
or what the part computed at another token of it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.inspect.derived import Tensors
from fathom.inspect.edit import Edit, edit, replace
from fathom.inspect.names import names
from fathom.model.cache import KVCache
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer

How = Literal["zero", "mean", "resample"]
Fault = Literal["none", "slices"]
AT_ONCE = 1 << 24  # logits that are held at a time


@dataclass(frozen=True)
class Part:
    """A part that can be taken away: a head, attn, mlp, a whole block, or an edge, what a query takes from a key."""

    layer: int
    kind: Literal["attn", "mlp", "block"]
    head: int | None = None
    edge: tuple[int, int] | None = None  # query, key


NAME = re.compile(r"blocks\.(\d+)(\.mlp|\.attn(?:\.head\.(\d+))?(?:\.query\.(\d+)\.key\.(\d+))?)?")


def part_of(config: ModelConfig, name: str) -> Part:
    """The part of this name: blocks.2, blocks.2.mlp, blocks.2.attn, blocks.2.attn.head.3, and of the last two an edge,
    as in blocks.2.attn.head.3.query.7.key.5. FathomError: the model has none."""
    config, match = config.resolved(), NAME.fullmatch(name)
    if match is None:
        known = "blocks.0, blocks.0.mlp, blocks.0.attn, blocks.0.attn.head.0, blocks.0.attn.head.0.query.3.key.1"
        raise FathomError(f"{name!r} is no part that can be taken away; expected a name such as {known}")
    layer, _, head, query, key = (int(x) if x and x.isdecimal() else None for x in match.groups())
    assert layer is not None
    if layer >= config.n_layer:
        raise FathomError(f"{name}: the model has blocks 0 to {config.n_layer - 1}")
    if head is not None and head >= config.n_head:
        raise FathomError(f"{name}: the model has heads 0 to {config.n_head - 1}")
    if match[2] == ".mlp" and config.mlp == "none":
        raise FathomError(f"{name}: the blocks of this model have no MLP; take away blocks.{layer}.attn")
    edge = None if query is None or key is None else (query, key)
    if edge is not None and edge[1] > edge[0]:
        raise FathomError(f"{name}: query {query} does not see key {key}, which comes later; choose an earlier key")
    return Part(layer, "block" if match[2] is None else "mlp" if match[2] == ".mlp" else "attn", head, edge)


@dataclass(frozen=True)
class Cut:
    """What stands in the place of parts that were taken away, from the pass `seen` of one text.

    places: of `resample`, the position whose activations each position gets. fault: wrong on purpose; `slices` takes a
    head away from the channels of attention's output that have its number.
    """

    model: Transformer
    seen: Tensors
    how: How = "zero"
    places: Tensor | None = None
    fault: Fault = "none"

    def edits(self, rows: Sequence[Sequence[str]], past: int = 0) -> list[Edit]:
        """The edits that take away, from each row of a batch, the parts of these names. past: how many tokens are in
        the cache; the edges of a prompt are cut in its own pass."""
        found: dict[str, list[tuple[int, Part]]] = {}
        for row, parts in enumerate(rows):
            for part in (part_of(self.model.config, name) for name in parts):
                for name in self.tensors(part) if part.edge is None or past == 0 else ():
                    found.setdefault(name, []).append((row, part))
        return [replace(name, partial(self.changed, name, cuts, past)) for name, cuts in found.items()]

    def tensors(self, part: Part) -> list[str]:
        """The tensors in which this part is taken away."""
        path = f"blocks.{part.layer}"
        if part.edge is not None:
            return [f"{path}.attn.scores"]
        if part.head is not None:
            return [f"{path}.attn" if self.fault == "slices" else f"{path}.attn.z"]
        known = names(self.model.config)
        layers = ["attn", "mlp"] if part.kind == "block" else [part.kind]
        added = (f"{path}.{layer}_after" if f"{path}.{layer}_after" in known else f"{path}.{layer}" for layer in layers)
        return [name for name in added if name in known]

    def changed(self, name: str, cuts: Sequence[tuple[int, Part]], past: int, x: Tensor) -> Tensor:
        """x (b, t, ...) or scores (b, h, t, s) after the cuts of each row."""
        for row, part in cuts:
            if part.edge is not None:
                unlink(x[row] if part.head is None else x[row, part.head], part.edge)
            elif part.head is None:
                x[row] = self.instead(name, x[row], past)
            elif self.fault == "slices":
                c = self.model.config.head_dim
                x[row, :, part.head * c : (part.head + 1) * c] = 0
            else:
                x[row, :, part.head] = self.instead(name, x[row], past)[:, part.head]
        return x

    def instead(self, name: str, x: Tensor, past: int) -> Tensor:
        """What stands in the place of x (t, ...)."""
        match self.how:
            case "zero":
                return torch.zeros_like(x)
            case "mean":
                return self.seen[name][0].mean(0, keepdim=True).expand_as(x)
            case "resample":
                assert self.places is not None
                return self.seen[name][0, self.places[past : past + len(x)]]


def unlink(scores: Tensor, edge: tuple[int, int]) -> None:
    """Scores (..., t, s) of a whole text, in which the query no longer sees the key: the others share what it had."""
    query, key = edge
    if query >= scores.shape[-2]:
        raise FathomError(f"there is no query {query}; the prompt has tokens 0 to {scores.shape[-2] - 1}")
    if (scores[..., query, key] == float("-inf")).any():
        raise FathomError(f"query {query} does not see key {key} here: it lies outside of the layer's window")
    scores[..., query, key] = float("-inf")
    if (scores[..., query, :] == float("-inf")).all(-1).any():
        raise FathomError(f"query {query} sees key {key} alone, and would have nothing left to look at")


def places(t: int, more: int, seed: int) -> Tensor:
    """For `resample`: a position of the prompt's t tokens for each of t + more positions."""
    return torch.randint(t, (t + more,), generator=torch.Generator().manual_seed(seed))


def recorded(config: ModelConfig) -> list[str]:
    """The names that `mean` and `resample` need."""
    ends = (".attn.z", ".attn", ".attn_after", ".mlp", ".mlp_after")
    return [name for name in names(config) if name.startswith("blocks.") and name.endswith(ends)]


@torch.no_grad()
def logits_without(model: Transformer, ids: Tensor, edits: Sequence[Edit], rows: int = 1) -> Tensor:
    """The logits (rows, t, V) of ids (1, t) with these edits; without any, those of the model to the bit."""
    with edit(model, *edits):
        return model(ids.expand(rows, -1))


@dataclass(frozen=True)
class Effect:
    """What a change does at each position, for one row or several: (..., t) each, in nats.

    kl: KL divergence of the changed distribution of the next token from the one before. change: of the log-probability
    of the token that follows in the text; NaN at the last one.
    """

    kl: Tensor
    change: Tensor


def effect(before: Tensor, after: Tensor, ids: Tensor) -> Effect:
    """Of logits before (t, V) and after (..., t, V), of ids (1, t)."""
    old, new = before.float().log_softmax(-1), after.float().log_softmax(-1)
    follows = ids[0, 1:, None]  # (t - 1, 1)
    gains = (new - old)[..., :-1, :].gather(-1, follows.expand(*new.shape[:-2], -1, -1))[..., 0]
    nothing = gains.new_full((*gains.shape[:-1], 1), float("nan"))
    return Effect((old.exp() * (old - new)).sum(-1), torch.cat((gains, nothing), -1))


def columns(config: ModelConfig) -> list[str]:
    """What a sweep takes away of each block, after its name: every head, attn, mlp, and "", the block."""
    config = config.resolved()
    mlp = [] if config.mlp == "none" else [".mlp", ""]
    return [*(f".attn.head.{head}" for head in range(config.n_head)), ".attn", *mlp]


def sweep(cut: Cut, ids: Tensor, before: Tensor, layers: Sequence[int]) -> Effect:
    """One part after another taken away: the effects (layers, columns, t) in the blocks `layers`. The rows of a batch
    are the same text, each without another part."""
    t, vocabulary = before.shape
    step, found = max(1, AT_ONCE // (t * vocabulary)), []
    for layer in layers:
        rows = [[f"blocks.{layer}{column}"] for column in columns(cut.model.config)]
        for some in (rows[at : at + step] for at in range(0, len(rows), step)):
            found.append(effect(before, logits_without(cut.model, ids, cut.edits(some), len(some)), ids))
    shape = (len(layers), -1, t)
    return Effect(*(torch.cat([getattr(one, name) for one in found]).view(shape) for name in ("kl", "change")))


@torch.no_grad()
def continued(cut: Cut, ids: Tensor, parts: Sequence[str], new: int) -> list[int]:
    """`new` greedy tokens after ids (1, t), without these parts."""
    cache = KVCache(cut.model.config, 1, ids.shape[1] + new, dtype=cut.model.embed.weight.dtype, device=ids.device)
    tokens: list[int] = []
    fresh = ids
    while len(tokens) < new:
        with edit(cut.model, *cut.edits([parts], cache.length)):
            fresh = cut.model(fresh, cache)[:, -1].argmax(-1, keepdim=True)
        tokens.append(int(fresh))
    return tokens
