"""Derived from recorded tensors: attention scores and pattern, use of experts, what heads and layers write.

Pure functions: `seen` is any mapping from names to tensors.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fathom.model.attention import Attention, Soft, attend
from fathom.model.mlp import ExpertsMLP
from fathom.model.transformer import Transformer

Tensors = Mapping[str, Tensor]


def scores_and_pattern(
    q: Tensor, k: Tensor, visible: Tensor | None = None, soft: Soft | None = None
) -> dict[str, Tensor]:
    """Attention scores and pattern, given rotated q (b, h, t, c) and all keys k (b, g, s, c).

    scores (b, h, t, s) before the softmax, -inf where masked; pattern (b, h, t, s) after it.
    """
    recorded: dict[str, Tensor] = {}

    def record(name: str, x: Tensor) -> Tensor:
        recorded[name] = x
        return x

    attend(q, k, k, visible, 0.0, record, soft=soft)
    return recorded


def routing(mlp: ExpertsMLP, scores: Tensor) -> dict[str, Tensor]:
    """What follows from a router's scores (b, t, e): weights (b, t, e) of the experts, 0 where one does not run a
    token, and the number of tokens (e,) that each runs."""
    weights, chosen = mlp.choose(scores)  # (b, t, used)
    tokens = chosen.flatten().bincount(minlength=scores.shape[-1])
    return {"weights": torch.zeros_like(scores, dtype=weights.dtype).scatter(-1, chosen, weights), "tokens": tokens}


def head_result(attn: Attention, z: Tensor, head: int) -> Tensor:
    """z_h W_out,h (..., d): what one head adds to the stream, given z (..., h, c)."""
    columns = slice(head * attn.head_dim, (head + 1) * attn.head_dim)
    return z[..., head, :] @ attn.out.weight[:, columns].mT


def head_results(attn: Attention, z: Tensor) -> Tensor:
    """z_h W_out,h of every head, (..., h, d), given z (..., h, c); a packed W_out is unpacked once."""
    own = attn.out.weight.unflatten(1, (-1, attn.head_dim))  # (d, h, c)
    return torch.einsum("...hc,dhc->...hd", z, own.to(z.dtype))


def starts(model: Transformer, seen: Tensors) -> dict[str, Tensor]:
    """What the stream begins with, by name, (b, t, d) each."""
    names = ["embed_norm" if model.config.scale.embed_norm else "embed"]
    return {name: seen[name] for name in names + ["position"] * (model.config.position == "learned")}


def first_stream(model: Transformer, seen: Tensors) -> Tensor:
    """The stream before all blocks (b, t, d)."""
    return sum(starts(model, seen).values(), torch.zeros(()))


def last_stream(model: Transformer, seen: Tensors) -> Tensor:
    """The input of final_norm (b, t, d)."""
    if len(model.blocks):
        return seen[f"blocks.{len(model.blocks) - 1}"]
    return first_stream(model, seen)


def streams(model: Transformer, seen: Tensors) -> list[Tensor]:
    """The stream before all blocks and after each, (b, t, d): L + 1 of them."""
    return [first_stream(model, seen), *(seen[f"blocks.{layer}"] for layer in range(len(model.blocks)))]


def written(model: Transformer, seen: Tensors, layer: str) -> Tensor:
    """What a layer, such as blocks.0.attn, adds to the stream."""
    return model.config.scale.residual * seen.get(f"{layer}_after", seen[layer])
