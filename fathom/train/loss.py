"""How wrong the model is about each next token: cross entropy in nats, summed, and exact when a batch comes in parts.

Logits of all tokens need tokens * V numbers, often more than the model. Where that is much they are computed in
pieces and once more in the backward pass, so that they never exist at once. Does not know optimizers or text.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.utils.checkpoint import checkpoint

from fathom.data.batches import IGNORED, Batch, shown
from fathom.model.cache import NoCache
from fathom.model.transformer import Transformer
from fathom.native import kernels
from fathom.train.precision import Precision

AT_ONCE = 2**25  # logits held at a time: 128 MiB in fp32
FROZEN_BYTES = 2**25  # of logits, where they are not needed again: the matrix is read more often, and less is held


def next_token_loss(
    model: Transformer, ids: Tensor, targets: Tensor, at_once: int = AT_ONCE, past: NoCache | None = None
) -> tuple[Tensor, Tensor]:
    """(sum of -ln p(target), number of targets that are not IGNORED) for ids and targets (b, t).

    Logits are only made where something is learned. `past` says what each token may see, if not all before it.
    """
    learned = (targets.flatten() != IGNORED).nonzero().flatten()  # (n,)
    wanted = targets.flatten()[learned]  # (n,)
    x = model.hidden(ids, past).flatten(0, 1)  # (b * t, d)
    x = x if len(learned) == len(x) else x.index_select(0, learned)  # (n, d)
    rows = max(1, at_once // model.config.vocab_size)
    if x.requires_grad and is_frozen(model.unembed):
        rows = frozen_rows(x, model.config.vocab_size, at_once)
        loss = FrozenLoss.apply(x, model.unembed.weight, wanted, rows)  # type: ignore[no-untyped-call]
    elif len(x) <= rows:
        loss = summed(model.unembed, x, wanted)
    else:
        pieces = zip(x.split(rows), wanted.split(rows))
        losses = [recomputed(model.unembed, piece, target) for piece, target in pieces]
        loss = torch.stack(losses).sum()
    return loss, torch.tensor(len(wanted), device=wanted.device)


def summed(unembed: nn.Module, x: Tensor, targets: Tensor) -> Tensor:  # (n, d), (n,) -> ()
    return F.cross_entropy(unembed(x).float(), targets, reduction="sum")


def recomputed(unembed: nn.Module, x: Tensor, targets: Tensor) -> Tensor:  # (n, d), (n,) -> ()
    """`summed`, whose logits are forgotten and computed again when the gradient is wanted."""
    return checkpoint(summed, unembed, x, targets, use_reentrant=False, preserve_rng_state=False)


def is_frozen(unembed: nn.Module) -> bool:
    """Whether it is a plain matrix that gets no gradient."""
    return type(unembed) is nn.Linear and not unembed.weight.requires_grad


def frozen_rows(x: Tensor, vocabulary: int, at_once: int) -> int:
    """How many of the tokens x (n, d) go through a frozen matrix at a time: about as many each time."""
    size = 2 if torch.is_autocast_enabled(x.device.type) else x.element_size()
    most = max(1, min(at_once, FROZEN_BYTES // size) // vocabulary)
    return -(-len(x) // -(-len(x) // most))


class FrozenLoss(torch.autograd.Function):
    """`summed` for a matrix W that does not learn: what x learns, (p - target) W, is known once its logits are.

    So it is worked out while they are there, `rows` at a time, and no logits are kept, or computed a second time.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, rows: int) -> Tensor:  # (n, d), (V, d), (n,)
        slope, losses = torch.empty_like(x), [x.new_zeros((), dtype=torch.float32)]
        for piece, wanted, out in zip(x.split(rows), targets[:, None].split(rows), slope.split(rows)):
            logits = F.linear(piece, weight)  # (rows, V)
            right = logits.gather(1, wanted).float()  # (rows, 1)
            e, largest, total = exponents(logits)  # (rows, V); (rows, 1)
            losses.append((total.log() + largest - right).sum())
            there = torch.arange(len(e), device=e.device), wanted[:, 0]  # scatter_ would copy all of e
            e[there] = ((right - largest).exp() - total)[:, 0].to(e.dtype)  # total * (p - target), all in all
            out.copy_((e @ weight.to(e.dtype)) / total)
        ctx.save_for_backward(slope)
        return torch.stack(losses).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return slope * grads[0].to(slope.dtype), None, None, None


def exponents(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """e^(logit - largest) in the place of logits (n, V) that nobody else holds, the largest and the sums (n, 1)."""
    if kernels.can_fuse(logits):
        largest, total = kernels.exponentials(logits)
        return logits, largest[:, None], total[:, None]
    most = logits.amax(-1, keepdim=True).float()
    e = logits.float().sub_(most).exp_()
    return e.to(logits.dtype), most, e.sum(-1, keepdim=True)


def parts(batch: Tensor | Batch, size: int | None = None) -> list[Batch]:
    """A batch, or windows (b, t + 1), as micro-batches of `size` rows."""
    whole = shown(batch)
    return whole.split(size or len(whole.ids))


def accumulate(model: Transformer, micro_batches: Sequence[Batch], precision: Precision, scaler: GradScaler) -> Tensor:
    """Add the gradient of the mean loss over all micro-batches to `.grad`; returns that loss.

    Exact: every trained token weighs the same, whichever part it comes in. A mean of the parts' means would favour
    tokens in parts that have few.
    """
    count = torch.stack([(part.targets != IGNORED).sum() for part in micro_batches]).sum().clamp(min=1)
    losses = []
    for part in micro_batches:
        with precision.autocast():
            loss = next_token_loss(model, part.ids, part.targets, past=part.past())[0] / count
        scaler.scale(loss).backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()
