"""Two sets of logits as four numbers, and when they are those of one model. Does not know where they come from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Logits = Callable[[Tensor], Tensor]  # ids (t,) -> (t, V) float32


@dataclass(frozen=True)
class Tolerance:
    """What rounding alone may do. `relative` is of 1 + the largest |logit|; kl in nats."""

    relative: float
    kl: float


# What fp32 sums in another order differ by, measured over random models, is below 2e-6; bf16 keeps 8 bits of each
# number, fp16 11, through every layer.
TOLERANCES = {
    torch.float32: Tolerance(2e-5, 1e-6),
    torch.float16: Tolerance(2e-2, 1e-3),
    torch.bfloat16: Tolerance(1e-1, 2e-2),
}


@dataclass(frozen=True)
class Comparison:
    """A model against one reference, over every position of every prompt."""

    reference: str
    about: str
    tokens: int
    max_difference: float  # of two logits
    largest_logit: float
    kl: float  # mean KL(reference || model), nats
    top1: float  # share of positions at which both find the same token likeliest
    tolerance: Tolerance | None  # None: they have other weights, and how they differ is told and not judged

    @property
    def allowed(self) -> float | None:
        """The largest difference of two logits that rounding may make."""
        return None if self.tolerance is None else self.tolerance.relative * (1 + self.largest_logit)

    @property
    def passed(self) -> bool:
        """Never true of what is not a number."""
        if self.tolerance is None or self.allowed is None:
            return self.max_difference == self.max_difference
        return self.max_difference <= self.allowed and self.kl <= self.tolerance.kl


@torch.no_grad()
def compare(
    name: str, about: str, model: Logits, reference: Logits, prompts: Sequence[Tensor], tolerance: Tolerance | None
) -> Comparison:
    """Ask both the same; `prompts` are ids (t,)."""
    tokens, difference, largest, kl, same = 0, 0.0, 0.0, 0.0, 0
    for ids in prompts:
        ours, theirs = model(ids).double().cpu(), reference(ids).double().cpu()  # (t, V)
        difference = max_of(difference, (ours - theirs).abs().max())
        largest = max_of(largest, theirs.abs().max())
        p, q = theirs.log_softmax(-1), ours.log_softmax(-1)
        kl += float((p.exp() * (p - q)).sum())
        same += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        tokens += len(ids)
    return Comparison(name, about, tokens, difference, largest, kl / tokens, same / tokens, tolerance)


def max_of(so_far: float, value: Tensor) -> float:
    """The larger one; nan stays nan."""
    return float(torch.maximum(torch.tensor(so_far, dtype=value.dtype), value))
