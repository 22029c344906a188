"""The training loop: batch -> loss -> backward -> clip -> step -> report -> maybe save.

A Session is everything that moves while a model learns; `fit` moves it. Works on anything that gives logits for
token ids. Does not know files, text or which architecture it trains.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from typing import Protocol

import torch
from torch import Tensor

from fathom.backend.training import recompute_blocks
from fathom.data.batches import Batch, shown
from fathom.errors import Diverged, FathomError
from fathom.machine import keep_freed_memory, pick_device
from fathom.model.config import ModelConfig
from fathom.model.init import zero_outputs
from fathom.model.transformer import Transformer
from fathom.train.events import Evaluated, Progress, Report, silent
from fathom.train.loss import accumulate, next_token_loss, parts
from fathom.train.optimizer import assign, build_optimizers, clip, factor
from fathom.train.options import TrainOptions
from fathom.train.precision import Precision, choose, compiles


class Batches(Protocol):
    """The training batch of every step: a pure function of the step, so that resuming needs no position."""

    def at(self, step: int) -> Tensor | Batch:  # (b, t + 1) token ids, or rows that say what follows
        ...


class Session:
    """A model, its optimizers and how far they have come. `seconds` and `tokens` count over all resumes.

    lora_plus: b of an adapter learns so many times faster than a.
    """

    def __init__(self, model: Transformer, options: TrainOptions, device: torch.device, lora_plus: float = 1.0) -> None:
        keep_freed_memory()
        self.model, self.options, self.device = model.to(device).train(), options, device
        self.precision = choose(options, model.config, device)
        self.precision.adapt(model)
        self.groups = assign(self.model, options, lora_plus)
        self.optimizers, self.scaler = build_optimizers(self.model, options, self.groups), self.precision.scaler()
        if options.checkpoint_blocks:
            recompute_blocks(self.model)
        compiled, self.compilation = compiles(options, device)
        if compiled:
            for block in self.model.blocks:  # alike, so that one is compiled and all are served
                block.compile()
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.validation_loss: float | None = None  # where it was measured at this very step
        self.began = time.perf_counter()

    @classmethod
    def start(cls, config: ModelConfig, options: TrainOptions) -> "Session":
        """A new model with weights drawn from the seed."""
        if options.init == "zero-output" and not config.residual:
            raise FathomError("init='zero-output' without a residual stream can never learn; use init='scaled'")
        torch.manual_seed(options.seed)
        model = Transformer(config)
        if options.init == "zero-output":
            zero_outputs(model)
        return cls(model, options, pick_device(options.device))

    @property
    def progress(self) -> float:
        """The part of the run that is done, 0 to 1, by steps or by minutes, whichever comes first."""
        minutes = self.options.max_minutes
        return max(self.step / self.options.max_iters, self.seconds / (60 * minutes) if minutes else 0.0)

    @property
    def steps(self) -> int:
        """Where the run will end, as far as can be told."""
        return self.step if self.finished else max(self.step + 1, round(self.step / self.progress))

    @property
    def finished(self) -> bool:
        return self.progress >= 1

    def due(self, interval: int) -> bool:
        """Whether what is done every so many steps, and at the end, is to be done now."""
        return self.step % interval == 0 or self.finished

    def tick(self) -> float:
        """Count the time that has passed; returns the seconds of the whole run."""
        now = time.perf_counter()
        self.seconds, self.began = self.seconds + now - self.began, now
        return self.seconds


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
    options, session.began, saved = session.options, time.perf_counter(), session.step
    while not session.finished and not stop():
        report(update(session, batches.at(session.step)))
        if session.due(options.eval_interval):
            loss = evaluate(session.model, takewhile(lambda _: not stop(), validation), session.precision)
            if not stop():  # else it was cut short
                session.validation_loss = loss
                report(Evaluated(session.step, loss, seconds=session.tick()))
        if session.due(options.checkpoint_interval or options.eval_interval):
            save(session)
            saved = session.step
    if saved != session.step:
        save(session)


def update(session: Session, batch: Tensor | Batch) -> Progress:
    """One step: loss -> backward -> clip -> step."""
    batch = shown(batch)
    options, model, optimizers = session.options, session.model, session.optimizers
    rate = factor(session.progress * options.max_iters, options)
    optimizers.set_learning_rates(rate)
    micro_batches = parts(batch.to(session.device), options.micro_batch_size)
    loss = accumulate(model, micro_batches, session.precision, session.scaler)
    optimizers.unscale(session.scaler)
    norm = clip(model, options.clip).item()
    refuse_divergence(session, loss.item(), norm, batch.name)
    if math.isfinite(norm):
        optimizers.step(session.scaler)
    session.scaler.update()  # in fp16 an overflow only lowers the scale: this step is left out
    optimizers.zero_grad()
    session.step, session.tokens, session.validation_loss = (
        session.step + 1,
        session.tokens + batch.n_tokens,
        None,
    )
    seconds, peak = session.tick(), options.learning_rate * rate
    return Progress(session.step, session.steps, loss.item(), session.tokens, seconds, peak, norm)


LEAST_SCALE = 1.0  # below it fp16 does not overflow: the gradient itself is not finite


def refuse_divergence(session: Session, loss: float, norm: float, name: str) -> None:
    """Raise Diverged, naming the batch, before anything is updated. In fp16 an overflow lowers the scale."""
    overflow = session.scaler.is_enabled() and session.scaler.get_scale() > LEAST_SCALE
    if math.isfinite(loss) and (math.isfinite(norm) or overflow):
        return
    session.optimizers.zero_grad()
    first = session.step * session.options.batch_size
    batch = name or f"windows {first} to {first + session.options.batch_size - 1}"
    raise Diverged(
        f"step {session.step + 1}: loss is {loss}, gradient norm {norm} (batch of {batch}); nothing was updated and no"
        " checkpoint touched; lower --lr or raise --train.warmup-steps"
    )


@torch.no_grad()
def evaluate(model: Transformer, validation: Iterable[Tensor | Batch], precision: Precision) -> float:
    """Mean loss in nats per trained token over windows (b, t + 1) or batches, without dropout."""
    device, training = precision.device, model.training
    model.eval()
    total, count = 0.0, 0
    for chunk in validation:
        batch = shown(chunk).to(device)
        with precision.autocast():
            loss, n = next_token_loss(model, batch.ids, batch.targets, past=batch.past())
        total, count = total + loss.item(), count + int(n)
    model.train(training)
    return total / max(count, 1)
