"""Training on a CPU in bf16 with fused passes and attention, and recomputation of blocks to save memory.

Norms and MLPs keep only their inputs for the backward pass; attention keeps q, k and v and computes its pattern again
(Dao et al. 2022, appendix B.2). A recomputed block keeps only its input (Chen et al. 2016, section 4.1).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

from fathom.anatomy.swap import Swap, parts, swap
from fathom.families.plain import computes_as
from fathom.model.attention import Attention, Soft, attend_fused
from fathom.model.mlp import GeluMLP, SwigluMLP
from fathom.model.norm import RMSNorm
from fathom.model.transformer import Block, Parallel, Transformer
from fathom.native import kernels

CHUNK = 128  # queries at a time; keys after the last of them are left out
MAX_KEYS = 512  # with more keys torch's fused kernel, which never writes scores to memory, is as fast


@computes_as(Block)
class RecomputedBlock(Block):
    """A block that keeps only its input, and runs again when the backward pass needs the rest."""

    def forward(self, *inputs: Any) -> Tensor:  # random states are kept, so that dropout is the same the second time
        return checkpoint(super().forward, *inputs, use_reentrant=False)


@computes_as(Parallel)
class RecomputedParallel(Parallel):
    """The same for a block whose attention and MLP run side by side."""

    def forward(self, *inputs: Any) -> Tensor:
        return checkpoint(super().forward, *inputs, use_reentrant=False)


def recompute_blocks(model: Transformer) -> Swap:
    """Let every block be recomputed: memory for the backward pass grows with one block, for one more forward pass."""
    blocks = {name: part for name, part in model.named_modules() if isinstance(part, Block)}
    names = [name for name, block in blocks.items() if not isinstance(block, RecomputedBlock | RecomputedParallel)]
    return swap(model, {Block: RecomputedBlock, Parallel: RecomputedParallel}, names=names)


@computes_as(RMSNorm)
class FusedRMSNorm(RMSNorm):
    """RMSNorm in one pass forward and one backward, where its weight is frozen and native code takes x."""

    def forward(self, x: Tensor) -> Tensor:  # (..., d) -> (..., d)
        if self.weight is None or self.weight.requires_grad or not kernels.can_fuse(x, self.weight):
            return super().forward(x)
        return Rms.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]


@computes_as(GeluMLP)
class FusedGeluMLP(GeluMLP):
    """GeluMLP whose activation is one pass forward and one backward, where native code takes it."""

    def forward(self, x: Tensor) -> Tensor:  # (b, t, d) -> (b, t, d)
        up = self.up(x)  # (b, t, f)
        act = Gelu.apply(up) if kernels.can_fuse(up) else F.gelu(up, approximate="tanh")  # type: ignore[no-untyped-call]
        return self.down(act)


@computes_as(SwigluMLP)
class FusedSwigluMLP(SwigluMLP):
    """SwigluMLP whose activation is one pass forward and one backward, where native code takes it."""

    def forward(self, x: Tensor) -> Tensor:  # (b, t, d) -> (b, t, d)
        gate, up = self.gate(x), self.up(x)  # (b, t, f)
        act = Swiglu.apply(gate, up) if kernels.can_fuse(gate, up) else F.silu(gate) * up  # type: ignore[no-untyped-call]
        return self.down(act)


FUSED: dict[type[nn.Module], type[nn.Module]] = {
    RMSNorm: FusedRMSNorm,
    GeluMLP: FusedGeluMLP,
    SwigluMLP: FusedSwigluMLP,
}


def use_fused_passes(model: nn.Module) -> Swap:
    """Exchange the norms, MLPs and attention functions that have a form for bf16; parts of other classes stay."""
    plain = [name for name in parts(model, Attention) if model.get_submodule(name).attend is attend_fused]
    return swap(model, FUSED, attend=attend_bf16, names=[*parts(model, *FUSED), *plain])


class Rms(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return kernels.rms_norm_forward(x, weight, eps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return kernels.rms_norm_backward(grads[0].contiguous(), x, weight, ctx.eps), None, None


class Gelu(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return kernels.gelu_forward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return kernels.gelu_backward(grads[0].contiguous(), x)


class Swiglu(Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return kernels.swiglu_forward(gate, up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return kernels.swiglu_backward(grads[0].contiguous(), gate, up)


@computes_as(attend_fused)
def attend_bf16(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, dropout: float, *, soft: Soft | None = None
) -> Tensor:
    """`attend_fused` by matrix products in bf16, some queries at a time; scores and pattern are rounded to bf16.

    Torch's fused kernel takes twice as long in fp32 on a CPU, and longer still in bf16. It runs, in fp32, for other
    formats, with dropout, a softer softmax or a penalty on distance, and for more than MAX_KEYS keys. Also for a single
    query, as of a sample: torch compiles a product in bf16 for every number of keys, and keeps a megabyte for each.
    """
    added = visible is not None and visible.dtype != torch.bool
    single = q.shape[2] == 1
    if dropout or single or q.dtype != torch.bfloat16 or k.shape[2] > MAX_KEYS or soft is not None or added:
        return attend_fp32(q, k, v, visible, dropout, soft)
    return Attend.apply(q, k, v, visible)  # type: ignore[no-untyped-call]


def attend_fp32(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, dropout: float, soft: Soft | None = None
) -> Tensor:
    """`attend_fused` in fp32, whatever the format around it."""
    with torch.autocast(q.device.type, enabled=False):
        return attend_fused(q.float(), k.float(), v.float(), visible, dropout, soft=soft).type_as(q)


class Attend(Function):
    """softmax(q k^T / sqrt(c)) v, with n = b * g heads of keys, each shared by r = h / g heads of queries."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
        queries, keys, values = flat_heads(q, k, v)
        ctx.save_for_backward(q, k, v, visible)
        z = torch.empty_like(q)  # (b, h, t, c)
        for chunk in chunks(q, k, visible):
            p = pattern(queries, keys, chunk)  # (n, r * rows, n_keys)
            z[:, :, chunk.rows] = torch.bmm(p, values[:, : chunk.n_keys]).view_as(z[:, :, chunk.rows])
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, visible = ctx.saved_tensors
        queries, keys, values = flat_heads(q, k, v)
        to_z = grads[0].unflatten(1, (k.shape[1], -1)).flatten(0, 1)  # (n, r, t, c)
        to_q, to_keys, to_values = torch.empty_like(q), torch.zeros_like(keys), torch.zeros_like(values)
        for chunk in chunks(q, k, visible):
            p, grad = pattern(queries, keys, chunk), chunk.of(to_z)  # (n, r * rows, n_keys or c)
            to_values[:, : chunk.n_keys] += torch.bmm(p.mT, grad)
            to_p = torch.bmm(grad, values[:, : chunk.n_keys].mT)  # (n, r * rows, n_keys)
            to_scores = torch._softmax_backward_data(to_p, p, -1, p.dtype)  # (n, r * rows, n_keys)
            to_keys[:, : chunk.n_keys] += torch.bmm(to_scores.mT, chunk.of(queries))
            to_q[:, :, chunk.rows] = torch.bmm(to_scores, keys[:, : chunk.n_keys]).view_as(to_q[:, :, chunk.rows])
        return to_q.mul_(q.shape[-1] ** -0.5), to_keys.view_as(k), to_values.view_as(v), None


@dataclass(frozen=True)
class Chunk:
    """Some queries, and as many of the first keys as any of them may see."""

    rows: slice
    n_keys: int
    mask: Tensor  # 0 and -inf, added to the scores (n, r, rows, the last of the keys)

    def of(self, x: Tensor) -> Tensor:  # (n, r, t, c) -> (n, r * rows, c)
        return x[:, :, self.rows].flatten(1, 2)


def chunks(q: Tensor, k: Tensor, visible: Tensor | None) -> Iterator[Chunk]:
    """All queries, CHUNK at a time. Only the last keys need a mask where each query sees all before it."""
    t, s = q.shape[2], k.shape[2]
    for first in range(0, t, CHUNK):
        rows = min(CHUNK, t - first)
        if visible is None:
            seen = torch.ones(rows, rows, dtype=torch.bool, device=q.device).tril()
            end = s - t + first + rows
        else:
            every = visible[..., first : first + rows, :].expand(q.shape[0], 1, rows, s)
            seen, end = every.repeat_interleave(k.shape[1], 0), s
        mask = torch.zeros(seen.shape, dtype=q.dtype, device=q.device).masked_fill_(~seen, float("-inf"))
        yield Chunk(slice(first, first + rows), end, mask)


def flat_heads(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q over sqrt(c) as (n, r, t, c), k and v as (n, s, c), contiguous."""
    queries = q.contiguous() * q.shape[-1] ** -0.5
    keys, values = k.contiguous().flatten(0, 1), v.contiguous().flatten(0, 1)
    return queries.unflatten(1, (k.shape[1], -1)).flatten(0, 1), keys, values


def pattern(queries: Tensor, keys: Tensor, chunk: Chunk) -> Tensor:
    """The attention pattern of a chunk of queries, (n, r * rows, n_keys)."""
    scores = torch.bmm(chunk.of(queries), keys[:, : chunk.n_keys].mT)  # (n, r * rows, n_keys)
    each = scores.unflatten(1, (queries.shape[1], -1))  # (n, r, rows, n_keys)
    each[..., -chunk.mask.shape[-1] :] += chunk.mask
    return scores.softmax(-1)
