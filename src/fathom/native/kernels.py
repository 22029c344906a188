"""The native kernels as functions of tensors: attention, NF4 to floats, and the fused passes of a bf16 training step.

`attention` and `unpack_nf4` return None where native code does not apply, and the caller computes with torch; the fused
passes are for tensors that `can_fuse` accepts.
"""

import ctypes
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fathom.native.build import library
from fathom.native.interface import FLOATS

NF4_SCALES = ("scales", "scale_codes", "scale_ranges", "dynamic", "scale_mean")  # the order of nf4.cpp


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
    """softmax(q k^T / sqrt(c)) v: q (b, h, t, c), k and v (b, g, s, c) -> (b, h, t, c), the last query at the last key.

    Keys and values are read where they are in a cache, without repeating heads and without storing the pattern.
    None for devices and formats other than fp32 and bf16 on a CPU, and where q requires a gradient.
    """
    same = q.dtype == k.dtype == v.dtype and q.dtype in FLOATS and q.is_cpu and k.is_cpu and v.is_cpu
    if not same or q.requires_grad or (lib := library("attention")) is None:
        return None
    (b, h, t, c), (_, g, s, _) = q.shape, k.shape
    spacing = head_spacing(k)
    if spacing is None or spacing != head_spacing(v):
        k, v, spacing = k.contiguous(), v.contiguous(), s * c
    z = q.new_empty(b, t, h, c)
    sizes = (ctypes.c_int64 * 7)(b, h, g, t, s, c, spacing)
    lib.attention(q.contiguous(), k, v, z, q.dtype == torch.bfloat16, sizes, torch.get_num_threads())
    return z.transpose(1, 2)


def head_spacing(x: Tensor) -> int | None:  # (b, g, s, c)
    """Numbers from one head to the next, over all rows, where each is contiguous: as in a cache that is not full.

    None where they are not evenly spaced. The stride of a dimension of size 1 means nothing, so it is not read.
    """
    b, g, s, c = x.shape
    if (c > 1 and x.stride(3) != 1) or (s > 1 and x.stride(2) != c):
        return None
    spacing = x.stride(1) if g > 1 else x.stride(0) if b > 1 else s * c
    return None if b > 1 and x.stride(0) != g * spacing else spacing


def unpack_nf4(
    packed: Mapping[str, Tensor], values: Tensor, dynamic: Tensor, shape: Sequence[int], dtype: torch.dtype
) -> Tensor | None:
    """The matrix of `shape` from the tensors of fathom/quant/nf4.py, the 16 NF4 values and the 256 of its scales.

    None for other devices and dtypes, without a compiler, and while a graph is traced.
    """
    codes = packed["codes"]
    if not codes.is_cpu or dtype not in FLOATS or torch.compiler.is_compiling() or (lib := library("nf4")) is None:
        return None
    parts = dict(packed) | ({} if "scales" in packed else {"dynamic": dynamic})
    scales = [parts[name].contiguous() if name in parts else None for name in NF4_SCALES]
    y = torch.empty(tuple(shape), dtype=dtype)
    count, threads = math.prod(shape), torch.get_num_threads()
    lib.unpack_nf4(codes.contiguous(), values, *scales, count, y, dtype == torch.bfloat16, threads)
    return y


def can_fuse(*tensors: Tensor) -> bool:
    """Whether the functions below accept these tensors: bf16, on a CPU, contiguous, with native code available."""
    fit = all(x.dtype == torch.bfloat16 and x.device.type == "cpu" and x.is_contiguous() for x in tensors)
    return fit and not torch.compiler.is_compiling() and library("fused") is not None


def call(name: str, *arguments: Tensor | int | float) -> None:
    """The function of fused.cpp, on all threads."""
    getattr(library("fused"), name)(*arguments, torch.get_num_threads())


def gelu_forward(x: Tensor) -> Tensor:
    """The tanh form."""
    call("gelu_forward", x, y := torch.empty_like(x), x.numel())
    return y


def gelu_backward(grad: Tensor, x: Tensor) -> Tensor:
    call("gelu_backward", grad, x, grad_x := torch.empty_like(x), x.numel())
    return grad_x


def swiglu_forward(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up"""
    call("swiglu_forward", gate, up, y := torch.empty_like(gate), gate.numel())
    return y


def swiglu_backward(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
    call("swiglu_backward", grad, gate, up, grad_gate, grad_up, gate.numel())
    return grad_gate, grad_up


def rms_norm_forward(x: Tensor, weight: Tensor, eps: float) -> Tensor:  # (..., n), (n,) -> (..., n)
    call("rms_norm_forward", x, weight, eps, y := torch.empty_like(x), x.numel() // len(weight), len(weight))
    return y


def rms_norm_backward(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The gradient of x alone: the weight is frozen."""
    grad_x = torch.empty_like(x)
    call("rms_norm_backward", grad, x, weight, eps, grad_x, x.numel() // len(weight), len(weight))
    return grad_x


def exponentials(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Replace logits (n, V) by e^(logit - largest), in place; the largest and the sum of each row, (n,) fp32."""
    largest, total = torch.empty(len(logits)), torch.empty(len(logits))
    call("exponentials", logits, largest, total, *logits.shape)
    return largest, total
