"""Derived from recorded tensors: attention scores and pattern, use of experts, logit lens, direct logit attribution.

Logit lens: nostalgebraist 2020. The residual stream as a sum of what every head and MLP wrote: Elhage et al. 2021.
Pure functions: `seen` is any mapping from names to tensors.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fathom.model.attention import Attention, attend
from fathom.model.mlp import ExpertsMLP
from fathom.model.norm import LayerNorm, Norm, PlainRMSNorm, RMSNorm
from fathom.model.transformer import Transformer

Tensors = Mapping[str, Tensor]


def scores_and_pattern(
    q: Tensor, k: Tensor, visible: Tensor | None = None, cap: float | None = None
) -> dict[str, Tensor]:
    """Attention scores and pattern, given rotated q (b, h, t, c) and all keys k (b, g, s, c).

    scores (b, h, t, s) before the softmax, -inf where masked; pattern (b, h, t, s) after it.
    """
    recorded: dict[str, Tensor] = {}

    def record(name: str, x: Tensor) -> Tensor:
        recorded[name] = x
        return x

    attend(q, k, k, visible, 0.0, record, cap=cap)
    return recorded


def routing(mlp: ExpertsMLP, scores: Tensor) -> dict[str, Tensor]:
    """What follows from a router's scores (b, t, e): weights (b, t, e) of the experts, 0 where one does not run a
    token, and the number of tokens (e,) that each runs."""
    weights, chosen = mlp.choose(scores)  # (b, t, used)
    tokens = chosen.flatten().bincount(minlength=scores.shape[-1])
    return {"weights": torch.zeros_like(scores, dtype=weights.dtype).scatter(-1, chosen, weights), "tokens": tokens}


def norm_scale(norm: nn.Module, x: Tensor) -> Tensor:
    """The factor (..., 1) by which this norm scales each vector of x (..., d) before its weight."""
    if isinstance(norm, LayerNorm):
        return torch.rsqrt(x.var(-1, correction=0, keepdim=True) + norm.eps)
    if isinstance(norm, RMSNorm | PlainRMSNorm):
        return torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.eps)
    return torch.ones_like(x[..., :1])


def through_norm(norm: nn.Module, part: Tensor, scale: Tensor) -> Tensor:
    """A part (..., d) of the stream after the norm, with the scale (..., 1) of the whole stream.

    Linear in `part`: the norm's output is the sum over all parts, plus the norm's bias.
    """
    centred = part - part.mean(-1, keepdim=True) if isinstance(norm, LayerNorm) else part
    gain = norm.gain if isinstance(norm, Norm) else None
    return centred * scale * (1 if gain is None else gain)


def lens(model: Transformer, stream: Tensor) -> Tensor:
    """Logit lens: the logits (b, t, V) of the stream (b, t, d) read here: unembed(final_norm(stream))."""
    return model.unembed(model.final_norm(stream))


def last_stream(model: Transformer, seen: Tensors) -> Tensor:
    """The input of final_norm (b, t, d)."""
    if len(model.blocks):
        return seen[f"blocks.{len(model.blocks) - 1}"]
    return sum(starts(model, seen).values(), torch.zeros(()))


def starts(model: Transformer, seen: Tensors) -> dict[str, Tensor]:
    """What the stream begins with, by name, (b, t, d) each."""
    names = ["embed_norm" if model.config.scale.embed_norm else "embed"]
    return {name: seen[name] for name in names + ["position"] * (model.config.position == "learned")}


def head_result(attn: Attention, z: Tensor, head: int) -> Tensor:
    """z_h W_out,h (..., d): what one head adds to the stream, given z (..., h, c)."""
    columns = slice(head * attn.head_dim, (head + 1) * attn.head_dim)
    return z[..., head, :] @ attn.out.weight[:, columns].mT


def stream_parts(model: Transformer, seen: Tensors, at: int) -> dict[str, Tensor]:
    """The parts whose sum final_norm reads at position `at`, by component: (b, d) each.

    Needs embed, embed_norm, position, blocks.*.attn.z and blocks.*.mlp. Without a residual stream only the last
    component remains.
    """
    parts = {name: x[:, at] for name, x in starts(model, seen).items()}
    for layer, block in enumerate(model.blocks):
        path, out = f"blocks.{layer}", block.attn.out
        z = seen[f"{path}.attn.z"][:, at]
        written = {f"{path}.attn.head.{h}": head_result(block.attn, z, h) for h in range(model.config.n_head)}
        if out.bias is not None:
            written[f"{path}.attn.bias"] = out.bias.expand(len(z), -1)
        parts = (parts if model.config.residual != "off" else {}) | joined(model, f"{path}.attn_after", written)
        if block.mlp is not None:
            bias = getattr(getattr(block.mlp, "down", None), "bias", None)  # experts have none
            written = {f"{path}.mlp": seen[f"{path}.mlp"][:, at] - (0 if bias is None else bias)}
            if bias is not None:
                written[f"{path}.mlp.bias"] = bias.expand(len(z), -1)
            parts = (parts if model.config.residual != "off" else {}) | joined(model, f"{path}.mlp_after", written)
    return parts


def joined(model: Transformer, name: str, written: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parts (b, d) that a layer writes, as they enter the stream: after the norm of this name, and scaled."""
    after = model.get_submodule(name)
    scale, factor = norm_scale(after, torch.stack(list(written.values())).sum(0)), model.config.scale.residual
    parts = {name: factor * through_norm(after, part, scale) for name, part in written.items()}
    if isinstance(after, LayerNorm) and after.bias is not None:
        parts[f"{name}.bias"] = factor * after.bias.expand(len(scale), -1)
    return parts


def contributions(model: Transformer, seen: Tensors, token: Tensor, at: int = -1) -> dict[str, Tensor]:
    """What each component adds to the logit of `token` (b,) at position `at`: (b,) each; they sum to the logit, of a
    model that caps its logits before the cap.

    Needs what `stream_parts` does and the last stream. The norm's scale is that of the sum.
    """
    norm, direction = model.final_norm, model.unembed.weight[token] * model.config.scale.logits  # (b, d)
    scale = norm_scale(norm, last_stream(model, seen)[:, at])
    parts = {
        name: (through_norm(norm, part, scale) * direction).sum(-1)
        for name, part in stream_parts(model, seen, at).items()
    }
    if isinstance(norm, LayerNorm) and norm.bias is not None:
        parts["final_norm.bias"] = (norm.bias * direction).sum(-1)
    if model.unembed.bias is not None:
        parts["unembed.bias"] = model.unembed.bias[token] * model.config.scale.logits
    return parts


def before_cap(model: Transformer, logits: Tensor) -> Tensor:
    """Logits as they are before the model's soft cap."""
    cap = model.config.scale.logit_cap
    return logits if cap is None else cap * torch.atanh(logits / cap)
