"""Norms and MLPs of a frozen model in bf16, in one pass forward and one backward, keeping only what enters them.

Done from outside: the model does not know. Where a layer learns, or there is no native code, it stays as it was.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

from fathom.model.attention import attend_fused
from fathom.model.mlp import GeluMLP, Relu2MLP, SwigluMLP
from fathom.model.norm import RMSNorm
from fathom.model.transformer import Transformer
from fathom.native import passes

# Memory for time: a block keeps only what enters it, and computes the rest again when the gradient is wanted.
#
# Chen et al. 2016, section 4.1. What is kept for the backward pass then grows with one block, not with their number,
# for one more forward pass. Done from outside: the model does not know.


def forget_blocks(model: Transformer) -> None:
    """Let every block of the model forget. Random states are kept, so that dropout is the same the second time."""
    for block in model.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]


# Attention for a training step in bf16 on a CPU: matrix products, some queries at a time, and the pattern forgotten.
#
# What is kept is q, k and v; backward works the pattern out anew (Dao et al. 2022, appendix B.2). Torch's fused
# kernel takes twice as long in fp32, and longer still in bf16. Scores and pattern are rounded to bf16.

PIECE = 128  # queries at a time: keys after the last of them are left out
MANY = 512  # keys from which on the fused kernel, which never writes scores to memory, is as fast


def attend_narrow(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, dropout: float) -> Tensor:
    """`attend_fused` for bf16 and not too many keys; elsewhere, and with dropout, that itself in fp32."""
    if dropout or q.dtype != torch.bfloat16 or k.shape[2] > MANY:
        return attend_fp32(q, k, v, visible, dropout)
    return Pieces.apply(q, k, v, visible)  # type: ignore[no-untyped-call]


def attend_fp32(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, dropout: float) -> Tensor:
    """`attend_fused` in fp32, whatever the format around it."""
    with torch.autocast(q.device.type, enabled=False):
        return attend_fused(q.float(), k.float(), v.float(), visible, dropout).type_as(q)


class Pieces(torch.autograd.Function):
    """softmax(q k^T / sqrt(c)) v, with n = b * g heads of keys, each asked by r = h / g heads of queries."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
        asked, keys, values = laid_out(q, k, v)
        ctx.save_for_backward(q, k, v, visible)
        z = torch.empty_like(q)  # (b, h, t, c)
        for piece in pieces(q, k, visible):
            p = pattern(asked, keys, piece)  # (n, r * rows, seen)
            z[:, :, piece.rows] = torch.bmm(p, values[:, : piece.seen]).view_as(z[:, :, piece.rows])
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, visible = ctx.saved_tensors
        asked, keys, values = laid_out(q, k, v)
        to_z = grads[0].unflatten(1, (k.shape[1], -1)).flatten(0, 1)  # (n, r, t, c)
        to_q, to_keys, to_values = torch.empty_like(q), torch.zeros_like(keys), torch.zeros_like(values)
        for piece in pieces(q, k, visible):
            p, grad = pattern(asked, keys, piece), piece.of(to_z)  # (n, r * rows, seen or c)
            to_values[:, : piece.seen] += torch.bmm(p.mT, grad)
            to_p = torch.bmm(grad, values[:, : piece.seen].mT)  # (n, r * rows, seen)
            slope = torch._softmax_backward_data(to_p, p, -1, p.dtype)  # (n, r * rows, seen)
            to_keys[:, : piece.seen] += torch.bmm(slope.mT, piece.of(asked))
            to_q[:, :, piece.rows] = torch.bmm(slope, keys[:, : piece.seen]).view_as(to_q[:, :, piece.rows])
        return to_q.mul_(q.shape[-1] ** -0.5), to_keys.view_as(k), to_values.view_as(v), None


@dataclass(frozen=True)
class Piece:
    """Some queries, and the first keys, as many as any of them may see."""

    rows: slice
    seen: int
    hidden: Tensor  # 0 and -inf, for (n, r, rows, the last of the keys)

    def of(self, x: Tensor) -> Tensor:  # (n, r, t, c) -> (n, r * rows, c)
        return x[:, :, self.rows].flatten(1, 2)


def pieces(q: Tensor, k: Tensor, visible: Tensor | None) -> Iterator[Piece]:
    """All queries, PIECE at a time. Only the last keys need hiding where each query sees all before it."""
    t, s = q.shape[2], k.shape[2]
    for first in range(0, t, PIECE):
        rows = min(PIECE, t - first)
        if visible is None:
            seen = torch.ones(rows, rows, dtype=torch.bool, device=q.device).tril()
            end = s - t + first + rows
        else:
            every = visible[..., first : first + rows, :].expand(q.shape[0], 1, rows, s)
            seen, end = every.repeat_interleave(k.shape[1], 0), s
        hidden = torch.zeros(seen.shape, dtype=q.dtype, device=q.device).masked_fill_(~seen, float("-inf"))
        yield Piece(slice(first, first + rows), end, hidden)


def laid_out(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q over sqrt(c) as (n, r, t, c), k and v as (n, s, c): one after another in memory."""
    asked = q.contiguous() * q.shape[-1] ** -0.5
    keys, values = k.contiguous().flatten(0, 1), v.contiguous().flatten(0, 1)
    return asked.unflatten(1, (k.shape[1], -1)).flatten(0, 1), keys, values


def pattern(asked: Tensor, keys: Tensor, piece: Piece) -> Tensor:
    """What the queries of a piece make of its keys, (n, r * rows, seen)."""
    scores = torch.bmm(piece.of(asked), keys[:, : piece.seen].mT)  # (n, r * rows, seen)
    each = scores.unflatten(1, (asked.shape[1], -1))  # (n, r, rows, seen)
    each[..., -piece.hidden.shape[-1] :] += piece.hidden
    return scores.softmax(-1)


def slim(model: Transformer) -> None:
    """Let the norms and MLPs of this model go the short way wherever it is open."""
    for module in model.modules():
        if isinstance(module, RMSNorm):
            module.forward = partial(norm, module)  # type: ignore[method-assign]
        elif isinstance(module, SwigluMLP):
            module.forward = partial(swiglu, module)  # type: ignore[method-assign]
        elif isinstance(module, GeluMLP) and not isinstance(module, Relu2MLP):
            module.forward = partial(gelu, module)  # type: ignore[method-assign]


def norm(module: RMSNorm, x: Tensor) -> Tensor:  # (..., d) -> (..., d)
    if module.weight.requires_grad or not passes.ready(x, module.weight):
        return RMSNorm.forward(module, x)
    return Norm.apply(x, module.weight, module.eps)  # type: ignore[no-untyped-call]


def gelu(module: GeluMLP, x: Tensor) -> Tensor:  # (b, t, d) -> (b, t, d)
    up = module.up(x)  # (b, t, f)
    act = Gelu.apply(up) if passes.ready(up) else F.gelu(up, approximate="tanh")  # type: ignore[no-untyped-call]
    return module.down(act)


def swiglu(module: SwigluMLP, x: Tensor) -> Tensor:  # (b, t, d) -> (b, t, d)
    gate, up = module.gate(x), module.up(x)  # (b, t, f)
    act = Swiglu.apply(gate, up) if passes.ready(gate, up) else F.silu(gate) * up  # type: ignore[no-untyped-call]
    return module.down(act)


class Norm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return passes.rms(x, weight, eps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return passes.rms_back(grads[0].contiguous(), x, weight, ctx.eps), None, None


class Gelu(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return passes.gelu(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return passes.gelu_back(grads[0].contiguous(), x)


class Swiglu(Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return passes.swiglu(gate, up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return passes.swiglu_back(grads[0].contiguous(), gate, up)
