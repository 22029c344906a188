"""AdamW whose two moments are kept in 8 bits: 2 bytes a weight instead of 8.

Dettmers et al. 2022, section 2: blocks of 256 numbers with a scale each, so that one large number spoils few others,
and values that lie closer the smaller they are. A step unpacks one tensor, moves it as AdamW does (Loshchilov & Hutter
2019, algorithm 2), and packs it again. Does not know models.
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fathom.quant.nf4 import DYNAMIC, decades, encode

BLOCK = 256
LEAST = 4096  # numbers of a tensor from which on packing pays: smaller ones keep fp32
POSITIVE = torch.cat((torch.tensor([0.0, 1.0]), *decades(2))).sort().values  # 256 values without a sign


class AdamW8bit(Optimizer):
    """The first moment in numbers of both signs, the second, which is a mean of squares, in positive ones."""

    def __init__(self, params: Any, betas: tuple[float, float], eps: float) -> None:
        super().__init__(params, {"betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.move(p, p.grad.float(), self.state[p], group)

    def move(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """One step of one parameter: its moments in fp32 for as long as that takes."""
        (beta1, beta2), rate = group["betas"], group["lr"]
        state["step"] = step = state.get("step", 0) + 1
        first = kept(state, "first", DYNAMIC, grad).lerp_(grad, 1 - beta1)
        second = kept(state, "second", POSITIVE, grad).mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        keep(state, "first", DYNAMIC, first)
        keep(state, "second", POSITIVE, second)
        size = (second / (1 - beta2**step)).sqrt_().add_(group["eps"])
        p.mul_(1 - rate * group["weight_decay"]).addcdiv_(first, size, value=-rate / (1 - beta1**step))


def kept(state: dict[str, Any], name: str, values: Tensor, like: Tensor) -> Tensor:
    """The moment in fp32, of its own; zeros before the first step."""
    if f"{name}_codes" in state:
        return unpack(state[f"{name}_codes"], state[f"{name}_scales"], values, like)
    return state[name] if name in state else torch.zeros_like(like)


def keep(state: dict[str, Any], name: str, values: Tensor, moment: Tensor) -> None:
    """Pack it, unless it is small."""
    if moment.numel() < LEAST:
        state[name] = moment
    else:
        state[f"{name}_codes"], state[f"{name}_scales"] = pack(moment, values)


def pack(x: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (numel,) and scales (numel / 256,), rounded up. In POSITIVE nothing becomes 0: it will be a divisor."""
    codes, scales = encode(x.flatten(), BLOCK, values)
    codes = codes.flatten()[: x.numel()].clone()
    return torch.where(x.flatten() > 0, codes.clamp(min=1), codes) if values is POSITIVE else codes, scales


def unpack(codes: Tensor, scales: Tensor, values: Tensor, like: Tensor) -> Tensor:
    """The numbers of `pack` in fp32, of the shape of `like`."""
    numbers = values.to(codes.device)[codes.int()]
    return numbers.mul_(scales.repeat_interleave(BLOCK)[: len(codes)]).view_as(like)
