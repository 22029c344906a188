"""The training loop: batch -> loss -> backward -> clip -> step -> report -> maybe save.

`fit` moves a Session from step to step. Works on anything that gives logits for token ids.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor

from fathom.data.batches import Batch
from fathom.errors import Diverged
from fathom.model.transformer import Transformer
from fathom.training.batches import MicroBatches, micro_batches, prefetching
from fathom.training.events import Evaluated, Progress, Report, silent
from fathom.training.loss import accumulate, next_token_loss
from fathom.training.optimizer import clip, factor
from fathom.training.precision import Precision
from fathom.training.session import Session
from fathom.training.world import ALONE, World


class Batches(Protocol):
    """The training batch of every step: a pure function of the step, so that resuming needs no position."""

    def at(self, step: int) -> Tensor | Batch:  # (b, t + 1) token ids, or rows with their targets
        ...


def fit(
    session: Session,
    batches: Batches,
    validation: Sequence[Tensor | Batch],
    report: Report = silent,
    save: Callable[[Session], None] = lambda session: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train until the run is done or `stop()` asks for the end.

    batches.at(step) and the chunks of `validation` are (b, t + 1) token ids, or Batches. `save` is called where a
    checkpoint is due, and at the end. Raises Diverged, with nothing updated, where loss or gradient are not finite.
    """
    options, saved, session.stop = session.options, session.step, stop
    session.clock.start()

    def prepared(step: int) -> MicroBatches:
        return session.prepare(batches.at(step), step)

    with prefetching(prepared, options.max_iters, session.device) as batch_of:
        while not session.finished and not session.stopping:
            report(update(session, batch_of(session.step)))
            due = [
                session.due(n) for n in (options.eval_interval, options.checkpoint_interval or options.eval_interval)
            ]
            if due[0]:
                loss = evaluate(session.model, session.until_stopped(validation), session.precision, session.world)
                session.learner.let_go()
                if not session.stopping:  # else it was cut short
                    session.validation_loss = loss
                    use = session.balance.use() if session.balance else ()
                    report(Evaluated(session.step, loss, session.tick(), experts=use))
            if due[1] or session.finished:
                save(session)
                saved = session.step
    if saved != session.step:
        save(session)


def update(session: Session, batch: MicroBatches, note: Callable[[], None] = lambda: None) -> Progress:
    """One step: loss -> backward -> clip -> step. note: called when gradients are there, before they are clipped."""
    options, optimizers, scaler = session.options, session.optimizers, session.scaler
    rate = factor(session.progress * options.max_iters, options)
    optimizers.set_learning_rates(rate)
    mean_loss = accumulate(session.learner, batch, session.precision, scaler, session.balance)
    optimizers.unscale(scaler)
    note()
    total_norm = session.learner.whole(clip(session.model, options.clip))
    of_experts = [] if session.balance is None else [session.balance.loss]
    own = torch.stack((mean_loss, *of_experts))
    norm, loss, *balancing = session.together(total_norm[None], own)  # the one time a step waits for the device
    sound = is_sound(session, loss, norm, batch.name)
    if sound and math.isfinite(norm):
        optimizers.step(scaler)
    scaler.update()  # in fp16 an overflow only lowers the scale: this step is left out
    optimizers.zero_grad()
    session.count(batch.n_tokens)
    seconds, peak = session.tick(), options.learning_rate * rate
    return Progress(session.step, session.steps, loss, session.tokens, seconds, peak, norm, session.left, *balancing)


LEAST_SCALE = 1.0  # below it fp16 does not overflow: the gradient itself is not finite


def is_sound(session: Session, loss: float, norm: float, name: str) -> bool:
    """Whether loss and gradient are finite; in fp16 an overflow of the gradient only lowers the scale.

    Where they are not, raises Diverged, naming the batch, before anything is updated, unless the run keeps going.
    """
    overflow = session.scaler.is_enabled() and session.scaler.get_scale() > LEAST_SCALE
    if math.isfinite(loss) and (math.isfinite(norm) or overflow):
        return True
    if session.options.keep_going:
        return False
    session.optimizers.zero_grad()
    first = session.step * session.options.batch_size
    batch = name or f"windows {first} to {first + session.options.batch_size - 1}"
    raise Diverged(
        f"step {session.step + 1}: loss is {loss}, gradient norm {norm} (batch of {batch}); nothing was updated and no"
        " checkpoint touched; lower --lr or raise --train.warmup-steps, or leave such steps out with --keep-going"
    )


@torch.no_grad()
def evaluate(
    model: Transformer, validation: Iterable[Tensor | Batch], precision: Precision, world: World = ALONE
) -> float:
    """Mean loss in nats per target over windows (b, t + 1) or batches, without dropout.

    Several processes take every so many-th chunk each; all must have the same.
    """
    training, total, count = model.training, 0.0, 0
    model.eval()
    for chunk, counts in shared(validation, world):
        for part in micro_batches(chunk, device=precision.device).parts:
            with precision.autocast():
                total += next_token_loss(model, part).item() * counts
            count += len(part.targets) * counts
    model.train(training)
    total, count = world.total(torch.tensor((total, count), dtype=torch.float64)).tolist()
    return total / max(count, 1)


def shared(validation: Iterable[Tensor | Batch], world: World) -> Iterator[tuple[Tensor | Batch, bool]]:
    """Every so many-th chunk, and whether it counts: where the chunks run out, a process computes one more in vain, as
    those that hold parts of one model make all passes together."""
    chunks = iter(validation)
    while group := list(islice(chunks, world.size)):
        yield group[min(world.rank, len(group) - 1)], world.rank < len(group)
