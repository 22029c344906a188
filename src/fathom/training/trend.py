"""What the losses of a run mean: whether it diverges, since when it overfits, and which checkpoint is its best.

A validation loss that rises while the training loss falls is overfitting: the best checkpoint is kept, and the run
continues. Where both rise, or the model has become worse than guessing, the run has diverged.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from fathom.errors import Diverged
from fathom.training.events import Evaluated, Event, Note, Progress

FAR = 1.0  # nats by which a loss that has diverged is above the best
WORSE = 0.5  # nats by which it is above the higher of guessing and the loss at the start
RISE = 0.01  # the share by which a validation loss above the best is more than noise


class Trend:
    """A listener to the losses of a run. `notes` are what it has to say of the event it was given.

    guessing: ln V. saved: the step of the best checkpoint, as a list that is empty where there is none. best: (loss,
    step) of the best evaluation, None before the first.
    """

    def __init__(
        self, guessing: float, keep_going: bool = False, saved: Callable[[], Sequence[int]] = lambda: ()
    ) -> None:
        self.ceiling, self.keep_going, self.saved = guessing + WORSE, keep_going, saved
        self.best: tuple[float, int] | None = None
        self.last: tuple[float, int] | None = None
        self.sum, self.count = 0.0, 0  # of the training losses since the last evaluation
        self.best_training: float | None = None  # the lowest mean between two evaluations
        self.training_at_best: float | None = None  # the mean when the validation loss was best
        self.risen, self.overfitting, self.diverged = 0, False, False

    def replay(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Take in what a metrics file holds of the run so far."""
        for line in lines:
            if "loss" in line:
                self.trained(line["step"], line["loss"])
            elif "val_loss" in line:
                self.observe(line["step"], line["val_loss"])

    def __call__(self, event: Event) -> Iterator[Note]:
        """Notes about the event. Raises Diverged where the run has, unless it keeps going."""
        if isinstance(event, Progress):
            self.trained(event.step, event.loss)
        elif isinstance(event, Evaluated):
            before = self.overfitting
            problem = self.observe(event.step, event.loss)
            if problem and not self.keep_going:
                raise Diverged(problem)
            if problem and not self.diverged:
                yield Note(f"{problem}; continuing (--keep-going)", warning=True)
            self.diverged = bool(problem)
            if self.overfitting and not before:
                yield Note(self.overfits(event), warning=True)

    def trained(self, step: int, loss: float) -> None:
        """Take in a training loss. The first is that of the model as it began, which may be worse than guessing."""
        if step == 1 and math.isfinite(loss):
            self.ceiling = max(self.ceiling, loss + WORSE)
        self.sum, self.count = self.sum + loss, self.count + 1

    def observe(self, step: int, loss: float) -> str:
        """Take in an evaluation; returns why the run has diverged, or nothing."""
        training = self.sum / self.count if self.count else None
        self.sum, self.count = 0.0, 0
        if step == 0 and math.isfinite(loss):
            self.ceiling = max(self.ceiling, loss + WORSE)
        problem = self.divergence(step, loss, training)
        self.last = (loss, step)
        if math.isfinite(loss) and (self.best is None or loss <= self.best[0]):
            self.best, self.training_at_best, self.risen, self.overfitting = (loss, step), training, 0, False
        elif not problem and self.rises(loss, training):
            self.risen += 1
            self.overfitting = self.overfitting or self.risen >= 2
        if training is not None and math.isfinite(training):
            self.best_training = min(training, self.best_training or training)
        return problem

    def divergence(self, step: int, loss: float, training: float | None) -> str:
        limit = self.ceiling if self.best_training is None else min(self.ceiling, self.best_training + FAR)
        learning = training is not None and training <= limit  # then it overfits, however high the loss
        if math.isfinite(loss) and (learning or not self.is_far(loss)):
            return ""
        guessing = f", worse than at the start or guessing ({self.ceiling - WORSE:.2f})" if loss > self.ceiling else ""
        return (
            f"diverged: the validation loss at step {step:,} is {loss:,.4f}{guessing}{self.kept()}; lower the learning"
            " rate (--lr) or raise --train.warmup-steps, or train on with --keep-going"
        )

    def is_far(self, loss: float) -> bool:
        return loss > self.ceiling or (self.best is not None and loss > self.best[0] + FAR)

    def kept(self) -> str:
        """What is left of a run that has diverged."""
        best = f"; its best was {self.best[0]:.4f} at step {self.best[1]:,}" if self.best else ""
        kept = "".join(f"; fathom generate uses the checkpoint of step {step:,}" for step in self.saved())
        return best + (kept or "; no checkpoint was saved")

    def rises(self, loss: float, training: float | None) -> bool:
        """Whether the validation loss has risen while the training loss has not."""
        learned = training is not None and self.training_at_best is not None and training < self.training_at_best
        return self.best is not None and loss > self.best[0] * (1 + RISE) and learned

    def overfits(self, event: Evaluated) -> str:
        assert self.best is not None
        loss, step = self.best
        return (
            f"overfitting since step {step:,}: the validation loss rises ({loss:.4f} to {event.loss:.4f}) while the "
            f"training loss still falls; fathom generate will use the checkpoint with the lowest validation loss"
        )

    def closing(self) -> Note | None:
        """Which checkpoint `generate` uses, and why; None where nothing was measured or saved."""
        if self.best is None or self.last is None or not self.saved():
            return None
        (loss, step), (last, end), used = self.best, self.last, self.saved()[0]
        if step == end == used:
            return Note(f"best validation loss: {loss:.4f} at step {step:,}, the last: fathom generate uses it")
        why = "the model overfits" if self.overfitting else "later steps did not improve it"
        where = f"step {used:,}" if used == step else f"step {used:,}, the best that was saved"
        return Note(
            f"best validation loss: {loss:.4f} at step {step:,}; at the end it is {last:.4f}, since {why}: "
            f"fathom generate uses the checkpoint of {where}",
            warning=self.overfitting,
        )
