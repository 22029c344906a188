"""Norms and MLPs of a frozen model in bf16, in one pass forward and one backward, keeping only what enters them.

Done from outside: the model does not know. Where a layer learns, or there is no native code, it stays as it was.
"""

from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from fathom.model.mlp import GeluMLP, Relu2MLP, SwigluMLP
from fathom.model.norm import RMSNorm
from fathom.model.transformer import Transformer
from fathom.native import passes


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
