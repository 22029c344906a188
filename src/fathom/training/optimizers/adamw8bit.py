"""AdamW whose two moments are kept in 8 bits: 2 bytes a weight instead of 8.

Dettmers et al. 2022, section 2: blocks of 256 numbers with a scale each, so that an outlier spoils few others, and
code values that are denser near zero. A step unpacks one tensor, updates it as AdamW does (Loshchilov & Hutter 2019,
algorithm 2), and packs it again.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fathom.quant.nf4 import DYNAMIC, decades, encode
from fathom.training.optimizers import OptimizerKind

BLOCK = 256
LEAST = 4096  # size of a tensor from which on packing pays: the moments of smaller ones stay fp32
POSITIVE = torch.cat((torch.tensor([0.0, 1.0]), *decades(2))).sort().values  # the 256 unsigned code values


class AdamW8bit(Optimizer):
    """The first moment in signed code values, the second, which is a mean of squares, in unsigned ones."""

    def __init__(self, params: Any, betas: tuple[float, float], eps: float) -> None:
        super().__init__(params, {"betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, p.grad.float(), self.state[p], group)

    def update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """One step of one parameter, whose moments are fp32 only during it."""
        (beta1, beta2), rate = group["betas"], group["lr"]
        state["step"] = step = state.get("step", 0) + 1
        first = read_moment(state, "first", DYNAMIC, grad).lerp_(grad, 1 - beta1)
        second = read_moment(state, "second", POSITIVE, grad).mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        store_moment(state, "first", DYNAMIC, first)
        store_moment(state, "second", POSITIVE, second)
        size = (second / (1 - beta2**step)).sqrt_().add_(group["eps"])
        p.mul_(1 - rate * group["weight_decay"]).addcdiv_(first, size, value=-rate / (1 - beta1**step))


def read_moment(state: dict[str, Any], name: str, values: Tensor, like: Tensor) -> Tensor:
    """The moment in fp32; zeros before the first step."""
    if f"{name}_codes" in state:
        return unpack(state[f"{name}_codes"], state[f"{name}_scales"], values, like)
    return state[name] if name in state else torch.zeros_like(like)


def store_moment(state: dict[str, Any], name: str, values: Tensor, moment: Tensor) -> None:
    """Put the moment into the state, packed unless it is small."""
    if moment.numel() < LEAST:
        state[name] = moment
    else:
        state[f"{name}_codes"], state[f"{name}_scales"] = pack(moment, values)


def pack(x: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (numel,) and scales (numel / 256,), rounded up. In POSITIVE no positive number becomes 0: it divides."""
    codes, scales = encode(x.flatten(), BLOCK, values)
    codes = codes.flatten()[: x.numel()].clone()
    return torch.where(x.flatten() > 0, codes.clamp(min=1), codes) if values is POSITIVE else codes, scales


def unpack(codes: Tensor, scales: Tensor, values: Tensor, like: Tensor) -> Tensor:
    """What was packed, in fp32 and of the shape of `like`."""
    numbers = values.to(codes.device)[codes.int()]
    return numbers.mul_(scales.repeat_interleave(BLOCK)[: len(codes)]).view_as(like)


def state_bytes(n: int) -> int:
    """Of both moments: a code a number and a scale a block, or fp32."""
    return 2 * (4 * n if n < LEAST else n + 4 * -(-n // BLOCK))


def scratch_bytes(sizes: Sequence[int]) -> int:
    """Both moments of one matrix in fp32, and as many numbers thrice while one is unpacked or packed."""
    return 20 * max(sizes, default=0)


def build(groups: list[dict[str, Any]], device: torch.device, betas: tuple[float, float], eps: float) -> AdamW8bit:
    return AdamW8bit(groups, betas=betas, eps=eps)


OPTIMIZER = OptimizerKind(build, ("betas", "eps"), state_bytes, scratch_bytes=scratch_bytes)
