"""Which parameter goes to which optimizer, what is decayed, and one step for all of them.

Matrices inside blocks go to Muon or are decayed by AdamW, perhaps with moments in 8 bits. Embeddings, norms and biases
go to AdamW undecayed: decay would shrink rare tokens that get no gradient, and norms away from 1. Does not know losses
or files.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_norm_

from fathom.model.transformer import Block
from fathom.train.adamw8bit import AdamW8bit
from fathom.train.muon import Muon
from fathom.train.options import Optimizer, TrainOptions
from fathom.train.precision import muon_dtype

# The learning rate over time, as a fraction of its peak: a pure function of the step.
#
# Every schedule warms up along a line. After that constant stays; linear and cosine (Loshchilov & Hutter 2017, eq. 5)
# fall at once; wsd stays and falls along a line at the end (warm-up, stable, decay: Hu et al. 2024, MiniCPM, section
# 4). The end is the step after the last one, so that a fall to 0 wastes no step. Does not know optimizers.


def factor(step: float, options: TrainOptions) -> float:
    """What the peak learning rate is multiplied by at this step, counted from 0: in [0, 1]."""
    end, warmup, final = options.max_iters, options.warmup, options.final_fraction
    if step < warmup:
        return (step + 1) / (warmup + 1)
    match options.schedule:
        case "constant":
            return 1.0
        case "linear":
            return linear(done(step, warmup, end), final)
        case "cosine":
            return cosine(done(step, warmup, end), final)
        case "wsd":
            return linear(done(step, end - options.decay_fraction * end, end), final)


def done(step: float, start: float, end: float) -> float:
    """How much of the way from `start` to `end` lies behind: 0 before it, 1 after it."""
    return min(max((step - start) / max(end - start, 1), 0.0), 1.0)


def linear(done: float, final: float) -> float:
    """A line from 1 to `final`."""
    return 1 + (final - 1) * done


def cosine(done: float, final: float) -> float:
    """Half a period of a cosine from 1 to `final`: flat at both ends."""
    return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2


Role = Literal["matrices", "embeddings", "norms and biases", "adapter a", "adapter b", "adapter lengths"]


@dataclass(frozen=True)
class Group:
    """Parameters that are treated alike."""

    role: Role
    optimizer: Optimizer
    parameters: dict[str, nn.Parameter]
    learning_rate: float  # at its peak
    weight_decay: float

    @property
    def count(self) -> int:
        return sum(p.numel() for p in self.parameters.values())


def assign(model: nn.Module, options: TrainOptions) -> list[Group]:
    """Every trainable parameter, a tied one once, in exactly one group; roles that nothing has are left out."""
    muon = options.optimizer == "muon"
    rate = options.muon_learning_rate if muon else options.learning_rate
    decay = options.muon_weight_decay if muon else options.weight_decay
    groups = [
        Group("matrices", options.optimizer, {}, rate, decay),
        Group("embeddings", "adamw", {}, options.learning_rate, 0.0),
        Group("norms and biases", "adamw", {}, options.learning_rate, 0.0),
    ]
    inside = {id(p) for module in model.modules() if isinstance(module, Block) for p in module.parameters()}
    by_role = {group.role: group for group in groups}
    for name, p in model.named_parameters():
        if p.requires_grad:
            by_role[role(p, id(p) in inside)].parameters[name] = p
    return [group for group in groups if group.parameters]


def role(p: nn.Parameter, in_block: bool) -> Role:
    if p.ndim < 2:
        return "norms and biases"
    return "matrices" if in_block else "embeddings"


class Optimizers:
    """AdamW and Muon as one. Rates come from the schedule at every step, so only `parts` have state worth saving."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts
        self.peaks = [group["lr"] for group in self.param_groups]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def set_learning_rates(self, factor: float) -> None:
        """Every learning rate at this fraction of its peak."""
        for group, peak in zip(self.param_groups, self.peaks):
            group["lr"] = peak * factor

    def unscale(self, scaler: GradScaler) -> None:
        """Divide gradients by what the loss was multiplied by; nothing to do but in fp16."""
        for part in self.parts:
            scaler.unscale_(part)

    def step(self, scaler: GradScaler) -> None:
        for part in self.parts:
            scaler.step(part)

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)


def build_optimizers(model: nn.Module, options: TrainOptions, groups: list[Group] | None = None) -> Optimizers:
    """The optimizers of these groups, or of `assign`'s. The model must be on its device already, what is trained in
    fp32."""
    groups = assign(model, options) if groups is None else groups
    check_complete(model, groups)
    device = next(model.parameters()).device
    parts: list[torch.optim.Optimizer] = []
    if adamw := [entry(g) for g in groups if g.optimizer == "adamw"]:
        fused = device.type in FUSED
        parts.append(torch.optim.AdamW(adamw, betas=options.betas, eps=options.eps, fused=fused))
    if small := [entry(g) for g in groups if g.optimizer == "adamw8bit"]:
        parts.append(AdamW8bit(small, betas=options.betas, eps=options.eps))
    if muon := [entry(g) for g in groups if g.optimizer == "muon"]:
        dtype = muon_dtype(options, device)
        parts.append(Muon(muon, options.muon_learning_rate, options.momentum, dtype=dtype))
    return Optimizers(parts)


FUSED = ("cpu", "cuda", "mps")  # devices on which one kernel updates all parameters of a group


def entry(group: Group) -> dict[str, Any]:
    """A group as torch's optimizers take it."""
    parameters = list(group.parameters.values())
    return {"params": parameters, "lr": group.learning_rate, "weight_decay": group.weight_decay}


def check_complete(model: nn.Module, groups: list[Group]) -> None:
    """Every trainable parameter in exactly one group: one left out would silently never learn."""
    given = sorted(name for group in groups for name in group.parameters)
    expected = sorted(name for name, p in model.named_parameters() if p.requires_grad)
    assert given == expected, f"parameters given to optimizers {given}, trainable {expected}"


def clip(model: nn.Module, limit: float | None) -> Tensor:
    """Scale all gradients down together so that their norm is at most `limit`; returns the norm they had."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    at_once = True if parameters[0].device.type == "cpu" else None  # torch would go one by one on a CPU
    return clip_grad_norm_(parameters, math.inf if limit is None else limit, foreach=at_once)
