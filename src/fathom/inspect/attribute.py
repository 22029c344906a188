"""Direct logit attribution: what every head, MLP and bias adds to a logit.

The residual stream is the sum of what was written to it (Elhage et al. 2021), and with its scale known the final norm
is linear, so a logit is a sum as well. Pure functions: `seen` is any mapping from names to tensors.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from fathom.inspect.derived import Tensors, head_results, last_stream, starts
from fathom.model.norm import LayerNorm, Norm, RMSNorm
from fathom.model.transformer import Transformer

Fault = Literal["none", "biases", "norms"]
Say = Callable[[Tensor], Tensor]
At = int | slice


def norm_scale(norm: nn.Module, x: Tensor) -> Tensor:
    """The factor (..., 1) by which this norm scales each vector of x (..., d) before its weight."""
    if isinstance(norm, LayerNorm):
        return torch.rsqrt(x.var(-1, correction=0, keepdim=True) + norm.eps)
    if isinstance(norm, RMSNorm):
        return torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.eps)
    return torch.ones_like(x[..., :1])


def through_norm(norm: nn.Module, part: Tensor, scale: Tensor) -> Tensor:
    """A part (..., d) of the stream after the norm, with the scale (..., 1) of the whole stream.

    Linear in `part`: the norm's output is the sum over all parts, plus the norm's bias.
    """
    centred = part - part.mean(-1, keepdim=True) if isinstance(norm, LayerNorm) else part
    gain = norm.gain if isinstance(norm, Norm) else None
    return centred * scale * (1 if gain is None else gain)


def stream_parts(model: Transformer, seen: Tensors, at: At, say: Say) -> dict[str, Tensor]:
    """What `say` makes of each part, (..., d), of the sum that final_norm reads at position `at`, by component.

    at: an index, and (..., d) is (b, d); or a slice, and it is (b, t, d). Needs embed, embed_norm, position,
    blocks.*.attn.z and blocks.*.mlp. Without a residual stream only what was written last remains.
    """
    parts = {name: say(x[:, at]) for name, x in starts(model, seen).items()}
    for layer, block in enumerate(model.blocks):
        path, out = f"blocks.{layer}", block.attn.out
        heads = head_results(block.attn, seen[f"{path}.attn.z"][:, at])  # (..., h, d)
        written = {f"{path}.attn.head.{head}": one for head, one in enumerate(heads.unbind(-2))}
        if out.bias is not None:
            written[f"{path}.attn.bias"] = out.bias.expand_as(heads[..., 0, :])
        parts = kept(model, parts) | joined(model, f"{path}.attn_after", written, say)
        if block.mlp is not None:
            bias = getattr(getattr(block.mlp, "down", None), "bias", None)  # experts have none
            whole = seen[f"{path}.mlp"][:, at]
            written = {f"{path}.mlp": whole - (0 if bias is None else bias)}
            if bias is not None:
                written[f"{path}.mlp.bias"] = bias.expand_as(whole)
            parts = kept(model, parts) | joined(model, f"{path}.mlp_after", written, say)
    return parts


def kept(model: Transformer, parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those that remain when a layer writes."""
    return {} if model.config.residual == "off" else parts


def joined(model: Transformer, name: str, written: dict[str, Tensor], say: Say) -> dict[str, Tensor]:
    """The parts (..., d) that a layer writes, as they enter the stream: after the norm of this name, and scaled."""
    after = model.get_submodule(name)
    scale, factor = norm_scale(after, torch.stack(list(written.values())).sum(0)), model.config.scale.residual
    parts = {name: say(factor * through_norm(after, part, scale)) for name, part in written.items()}
    if isinstance(after, LayerNorm) and after.bias is not None:
        parts[f"{name}.bias"] = say(factor * after.bias.expand_as(next(iter(written.values()))))
    return parts


@torch.no_grad()
def contributions(
    model: Transformer, seen: Tensors, tokens: Tensor, at: At = -1, fault: Fault = "none"
) -> dict[str, Tensor]:
    """What each component adds to the logits of `tokens` (b, n) at position `at`: (b, n) each; they sum to the logits,
    of a model that caps them before the cap. With a slice as `at`, tokens and results are (b, t, n).

    Needs what `stream_parts` does and the last stream. The norm's scale is that of the sum. fault: wrong on purpose;
    `biases` forgets them, and `norms` gives each part the scale of its own instead of the sum's.
    """
    norm, direction = model.final_norm, model.unembed.weight[tokens] * model.config.scale.logits  # (..., n, d)
    scale = norm_scale(norm, last_stream(model, seen)[:, at])

    def say(part: Tensor) -> Tensor:  # (..., d) -> (..., n)
        own = norm_scale(norm, part) if fault == "norms" else scale
        return torch.einsum("...d,...nd->...n", through_norm(norm, part, own), direction)

    parts = stream_parts(model, seen, at, say)
    if isinstance(norm, LayerNorm) and norm.bias is not None:
        parts["final_norm.bias"] = direction @ norm.bias
    if model.unembed.bias is not None:
        parts["unembed.bias"] = model.unembed.bias[tokens] * model.config.scale.logits
    return {name: x for name, x in parts.items() if fault != "biases" or not name.endswith("bias")}


def before_cap(model: Transformer, logits: Tensor) -> Tensor:
    """Logits as they are before the model's soft cap."""
    cap = model.config.scale.logit_cap
    return logits if cap is None else cap * torch.atanh(logits / cap)
