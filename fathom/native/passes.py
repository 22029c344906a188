"""What lies between the matrix products of a training step in bf16, each a single pass: passes.cpp, as tensors.

Only where `ready` says so: bf16 on a CPU, one number after another, and a compiler at hand. Does not know gradients.
"""

import ctypes

import torch
from torch import Tensor

from fathom.native.build import library


def ready(*tensors: Tensor) -> bool:
    """Whether the functions of this file can take these tensors."""
    fit = all(x.dtype == torch.bfloat16 and x.device.type == "cpu" and x.is_contiguous() for x in tensors)
    return fit and not torch.compiler.is_compiling() and library("passes") is not None


def call(name: str, *arguments: Tensor | int | float) -> None:
    """The function of passes.cpp, on all threads."""
    lib = library("passes")
    assert lib is not None
    lib[name](*map(plain, arguments), ctypes.c_int(torch.get_num_threads()))


def plain(x: Tensor | int | float) -> ctypes.c_void_p | ctypes.c_int64 | ctypes.c_float:
    """As C++ takes it."""
    if isinstance(x, Tensor):
        return ctypes.c_void_p(x.data_ptr())
    return ctypes.c_int64(x) if isinstance(x, int) else ctypes.c_float(x)


def gelu(x: Tensor) -> Tensor:
    """Its tanh form."""
    call("gelu", x, y := torch.empty_like(x), x.numel())
    return y


def gelu_back(grad: Tensor, x: Tensor) -> Tensor:
    call("gelu_back", grad, x, to_x := torch.empty_like(x), x.numel())
    return to_x


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up"""
    call("swiglu", gate, up, y := torch.empty_like(gate), gate.numel())
    return y


def swiglu_back(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    to_gate, to_up = torch.empty_like(gate), torch.empty_like(up)
    call("swiglu_back", grad, gate, up, to_gate, to_up, gate.numel())
    return to_gate, to_up


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:  # (..., n), (n,) -> (..., n)
    call("rms", x, weight, eps, y := torch.empty_like(x), x.numel() // len(weight), len(weight))
    return y


def rms_back(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The gradient of x alone: the weight is frozen."""
    call("rms_back", grad, x, weight, eps, to_x := torch.empty_like(x), x.numel() // len(weight), len(weight))
    return to_x


def exponents(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Turn logits (n, V) into e^(logit - largest), in place; returns the largest and the sum of each row, (n,) fp32."""
    largest, total = torch.empty(len(logits)), torch.empty(len(logits))
    call("exponents", logits, largest, total, *logits.shape)
    return largest, total
