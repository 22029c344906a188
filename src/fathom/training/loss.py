"""Next-token loss: cross entropy in nats, summed, and exact when a batch is split into micro-batches.

Logits of all tokens need tokens * V numbers, often more than the model. Where that is much they are computed in
pieces, and again in the backward pass, so that they never exist all at once.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.utils.checkpoint import checkpoint

from fathom.anatomy.training import AT_ONCE, FROZEN_BYTES
from fathom.model.transformer import Transformer
from fathom.native import kernels
from fathom.training.batches import MicroBatch, MicroBatches
from fathom.training.dropout import Masks
from fathom.training.experts import Balance
from fathom.training.precision import Precision


def next_token_loss(model: Transformer, batch: MicroBatch, at_once: int = AT_ONCE) -> Tensor:
    """() the sum of -ln p(target) over the targets of a micro-batch. Logits are computed for those only."""
    targets, x = batch.targets, model.hidden(batch.ids, batch.past).flatten(0, 1)  # (n,), (b * t, d)
    x = x if batch.places is None else x.index_select(0, batch.places)  # (n, d)
    rows = max(1, at_once // model.config.vocab_size)
    if x.requires_grad and is_frozen(model.unembed):
        rows = frozen_rows(x, model.config.vocab_size, at_once)
        return FrozenLoss.apply(x, model.unembed.weight, targets, rows)  # type: ignore[no-untyped-call]
    if len(x) <= rows:
        return summed(model.unembed, x, targets)
    pieces = zip(x.split(rows), targets.split(rows))
    return torch.stack([recomputed(model.unembed, piece, target) for piece, target in pieces]).sum()


def summed(unembed: nn.Module, x: Tensor, targets: Tensor) -> Tensor:  # (n, d), (n,) -> ()
    return F.cross_entropy(unembed(x).float(), targets, reduction="sum")


def recomputed(unembed: nn.Module, x: Tensor, targets: Tensor) -> Tensor:  # (n, d), (n,) -> ()
    """`summed`, whose logits are discarded and computed again for the gradient."""
    return checkpoint(summed, unembed, x, targets, use_reentrant=False, preserve_rng_state=False)


def is_frozen(unembed: nn.Module) -> bool:
    """Whether it is a plain matrix, without a bias, that gets no gradient."""
    parameters = dict(unembed.named_parameters())
    return type(unembed) is nn.Linear and [*parameters] == ["weight"] and not parameters["weight"].requires_grad


def frozen_rows(x: Tensor, vocabulary: int, at_once: int) -> int:
    """How many of the tokens x (n, d) go through a frozen matrix at a time: pieces of about one size."""
    size = 2 if torch.is_autocast_enabled(x.device.type) else x.element_size()
    most = max(1, min(at_once, FROZEN_BYTES // size) // vocabulary)
    pieces = max(1, -(-len(x) // most))
    return max(1, -(-len(x) // pieces))


class FrozenLoss(torch.autograd.Function):
    """`summed` for a matrix W that does not learn: the gradient of x, (p - target) W, is known once its logits are.

    It is computed in the forward pass, `rows` at a time: no logits are kept, or computed a second time.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, rows: int) -> Tensor:  # (n, d), (V, d), (n,)
        grad, losses = torch.empty_like(x), [x.new_zeros((), dtype=torch.float32)]
        for piece, target, out in zip(x.split(rows), targets[:, None].split(rows), grad.split(rows)):
            logits = F.linear(piece, weight)  # (rows, V)
            correct = logits.gather(1, target).float()  # (rows, 1)
            e, largest, total = exponents(logits)  # (rows, V); (rows, 1)
            losses.append((total.log() + largest - correct).sum())
            at = torch.arange(len(e), device=e.device), target[:, 0]  # scatter_ would copy all of e
            e[at] = ((correct - largest).exp() - total)[:, 0].to(e.dtype)  # e is now total * (p - target)
            out.copy_((e @ weight.to(e.dtype)) / total)
        ctx.save_for_backward(grad)
        return torch.stack(losses).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * grads[0].to(grad.dtype), None, None, None


def exponents(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """e^(logit - largest), in place, so `logits` (n, V) are used up; the largest of each row and the sums (n, 1)."""
    if kernels.can_fuse(logits):
        largest, total = kernels.exponentials(logits)
        return logits, largest[:, None], total[:, None]
    most = logits.amax(-1, keepdim=True).float()
    e = logits.float().sub_(most).exp_()
    return e.to(logits.dtype), most, e.sum(-1, keepdim=True)


class Learner:
    """A model as one process trains it. `distributed` has others, which several processes train."""

    divided = False  # whether each of several processes holds a part of the model
    lowered = False  # whether blocks compute with weights in the dtype of the forward pass, which autocast then expects

    def __init__(self, model: Transformer, reason: str = "") -> None:
        """reason: how the model is divided over several processes, and why, for the user."""
        self.model, self.reason = model, reason
        self.masks: Masks | None = None  # of a model with dropout

    def loss(self, part: MicroBatch) -> Tensor:
        """`next_token_loss`."""
        return next_token_loss(self.model, part)

    def synchronised(self, last: bool) -> AbstractContextManager[None]:
        """Around the passes of a micro-batch, which may be the last one of its step."""
        return nullcontext()

    def whole(self, x: Tensor) -> Tensor:
        """A parameter, or what belongs to one, whole in every process; all of them ask for it."""
        return x

    def own(self, whole: Tensor, like: Tensor) -> Tensor:
        """Of a tensor that belongs to the parameter `like` what this process holds: the inverse of `whole`."""
        return whole

    def assembled(self, modules: Iterable[nn.Module]) -> AbstractContextManager[None]:
        """Inside, the parameters of these modules are whole; no pass is made there. All processes enter together."""
        return nullcontext()

    def let_go(self) -> None:
        """After passes without a backward pass, which is what lets go of the ends of a sharded model."""


def accumulate(
    learner: Learner, batch: MicroBatches, precision: Precision, scaler: GradScaler, balance: Balance | None = None
) -> Tensor:
    """Add the gradient of the mean loss over all micro-batches to `.grad`; returns this process's part of it, ().

    Exact: every target has the same weight, whichever micro-batch it is in. A mean of means would favour targets in
    micro-batches that have few. balance: of a model with experts, whose penalty is added to what is minimised, and not
    to the loss that is returned.
    """
    losses = []
    if balance is not None:
        balance.begin()
    for part in batch.parts:
        if learner.masks is not None:
            learner.masks.keys = part.keys
        with learner.synchronised(part is batch.parts[-1]):
            with precision.autocast(), nullcontext() if balance is None else balance.listen():
                loss = learner.loss(part) / batch.count
            scaler.scale(loss if balance is None else loss + balance.penalty(part, batch.n_tokens)).backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()
