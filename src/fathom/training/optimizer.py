"""Which parameter goes to which optimizer, at which learning rate; all optimizers of a run as one.

The matrices inside blocks go to the chosen optimizer, and are decayed. Embeddings, norms and biases go to AdamW
undecayed: decay would shrink rare tokens that get no gradient, and norms away from 1. Schedules are at the end.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_norm_

from fathom.adapters.layer import Lora
from fathom.errors import FathomError
from fathom.model.transformer import Block
from fathom.training.optimizers import NAMES, optimizer_named
from fathom.training.options import TrainOptions

Role = Literal["matrices", "embeddings", "norms and biases", "adapter a", "adapter b", "adapter lengths"]
ADAPTER_ROLES: dict[str, Role] = {"a": "adapter a", "b": "adapter b", "magnitude": "adapter lengths"}


@dataclass(frozen=True)
class Group:
    """Parameters that are treated alike."""

    role: Role
    optimizer: str  # one of optimizers.NAMES
    parameters: dict[str, nn.Parameter]
    learning_rate: float  # at its peak
    weight_decay: float

    @property
    def count(self) -> int:
        return sum(p.numel() for p in self.parameters.values())

    @property
    def state_bytes(self) -> int:
        """What the optimizer keeps of these parameters from its first step on."""
        kind = optimizer_named(self.optimizer)
        return sum(kind.state_bytes(p.numel()) for p in self.parameters.values())

    def entry(self) -> dict[str, Any]:
        """The group as torch's optimizers take it."""
        parameters = list(self.parameters.values())
        return {"params": parameters, "lr": self.learning_rate, "weight_decay": self.weight_decay}


def assign(model: nn.Module, options: TrainOptions, lora_plus: float = 1.0) -> list[Group]:
    """Every trainable parameter, a tied one once, in exactly one group; roles that nothing has are left out.

    lora_plus: b of an adapter learns so many times faster than a (Hayou et al. 2024, section 4).
    """
    kind, plain = optimizer_named(options.optimizer), options.learning_rate
    rate, decay = getattr(options, kind.learning_rate), getattr(options, kind.weight_decay)
    groups = [
        Group("matrices", options.optimizer, {}, rate, decay),
        Group("embeddings", "adamw", {}, plain, 0.0),
        Group("norms and biases", "adamw", {}, plain, 0.0),
        Group("adapter a", options.optimizer, {}, rate, decay),
        Group("adapter b", options.optimizer, {}, rate * lora_plus, decay),
        Group("adapter lengths", "adamw", {}, plain, 0.0),
    ]
    adapters, inside = parameters_in(model, Lora), parameters_in(model, Block)
    by_role = {group.role: group for group in groups}
    for name, p in model.named_parameters():
        if p.requires_grad:
            role = ADAPTER_ROLES[name.rpartition(".")[2]] if id(p) in adapters else role_of(p, id(p) in inside)
            by_role[role].parameters[name] = p
    return [group for group in groups if group.parameters]


def parameters_in(model: nn.Module, kind: type[nn.Module]) -> set[int]:
    """The identities of all parameters in modules of this kind."""
    return {id(p) for module in model.modules() if isinstance(module, kind) for p in module.parameters()}


def role_of(p: nn.Parameter, in_block: bool) -> Role:
    if p.ndim < 2:
        return "norms and biases"
    return "matrices" if in_block else "embeddings"


class Optimizers:
    """All optimizers of a run as one. Rates come from the schedule at every step: only `parts` have state to save."""

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
        """Divide gradients by the loss scale of fp16; with any other format nothing is to be done."""
        for part in self.parts:
            scaler.unscale_(part)

    def step(self, scaler: GradScaler) -> None:
        for part in self.parts:
            scaler.step(part)

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)


def build_optimizers(model: nn.Module, options: TrainOptions, groups: list[Group] | None = None) -> Optimizers:
    """The optimizers of these groups, or of `assign`'s. The model is on its device already, what is trained in fp32."""
    groups = assign(model, options) if groups is None else groups
    require_complete(model, groups)
    device, parts = next(model.parameters()).device, []
    for name in NAMES:  # in this order they are saved
        if entries := [group.entry() for group in groups if group.optimizer == name]:
            kind = optimizer_named(name)
            parts.append(kind.build(entries, device, **{field: getattr(options, field) for field in kind.options}))
    return Optimizers(parts)


def require_complete(model: nn.Module, groups: list[Group]) -> None:
    """FathomError unless every trainable parameter is in exactly one group: one left out would never learn."""
    grouped = [name for group in groups for name in group.parameters]
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    wrong = [f"{name} is in no group" for name in sorted(trainable - set(grouped))]
    wrong += [f"{name} is not trainable" for name in sorted(set(grouped) - trainable)]
    wrong += [f"{name} is in {grouped.count(name)} groups" for name in sorted(set(grouped)) if grouped.count(name) > 1]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise FathomError(f"{wrong[0]}{more}; each trainable parameter belongs to one group, as `assign` gives them")


def clip(model: nn.Module, limit: float | None) -> Tensor:
    """Scale all gradients down together so that their norm is at most `limit`; returns the norm they had, ()."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    at_once = True if parameters[0].device.type == "cpu" else None  # torch would go one by one on a CPU
    return clip_grad_norm_(parameters, math.inf if limit is None else limit, foreach=at_once)


# The learning rate over time, as a fraction of its peak: a pure function of the step.
#
# Every schedule warms up along a line. After that constant stays; linear and cosine (Loshchilov & Hutter 2017, eq. 5)
# fall at once; wsd (warm-up, stable, decay: Hu et al. 2024, MiniCPM, section 4) stays and falls along a line at the
# end. The end is the step after the last one, so that a fall to 0 wastes no step.


def factor(step: float, options: TrainOptions) -> float:
    """The learning rate at this step, counted from 0, over its peak: in [0, 1]."""
    end, warmup, final = options.max_iters, options.warmup, options.final_fraction
    if step < warmup:
        return (step + 1) / (warmup + 1)
    match options.schedule:
        case "constant":
            return 1.0
        case "linear":
            return linear(part_done(step, warmup, end), final)
        case "cosine":
            return cosine(part_done(step, warmup, end), final)
        case "wsd":
            return linear(part_done(step, end - options.decay_fraction * end, end), final)


def part_done(step: float, start: float, end: float) -> float:
    """How much of the way from `start` to `end` lies behind: 0 before it, 1 after it."""
    return min(max((step - start) / max(end - start, 1), 0.0), 1.0)


def linear(done: float, final: float) -> float:
    """A line from 1 to `final`."""
    return 1 + (final - 1) * done


def cosine(done: float, final: float) -> float:
    """Half a period of a cosine from 1 to `final`: flat at both ends."""
    return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2
