"""What all trainings of an experiment stand on: the data of a fine-tune, what it is validated on, a number of steps.

A model is trained in memory and measured; nothing is kept on disk. Does not know which of its parameters learn.
"""

import copy
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from fathom.data.batches import Batch
from fathom.data.encoding import holds_records
from fathom.errors import FathomError
from fathom.lab.options import RankOptions
from fathom.lab.result import Text
from fathom.model.transformer import Transformer
from fathom.tokenizer.protocol import Tokenizer
from fathom.train.events import Event, Prepared, Progress, Report, silent
from fathom.train.finetune_data import prepare
from fathom.train.finetune_options import FinetuneOptions
from fathom.train.finetune_run import Base, TunedRun
from fathom.train.loop import Batches, Session, evaluate, fit, update
from fathom.train.precision import choose

SHORT, LONG = 128, 512  # tokens in view of text and of records, where the model could have more
PROBE, FEWEST, SLACK = 4, 10, 0.8  # steps that are timed; fewest of a training; part of the time that is planned
EVALUATIONS = 50  # about how many losses an experiment measures


@dataclass(frozen=True)
class Ground:
    """The same for every training and every loss."""

    options: RankOptions
    text: Text
    batches: Batches
    validation: Sequence[Tensor | Batch]
    steps: int
    report: Report
    stop: Callable[[], bool]

    def loss(self, model: Transformer) -> float:
        """Validation loss in nats per token."""
        device = next(model.parameters()).device
        return evaluate(model, self.validation, choose(self.options.training(1, 1.0), model.config, device))

    def train(self, model: Transformer, rate: float, what: str) -> float:
        """Train what has a gradient for `steps` steps; returns the loss. FathomError where it was stopped."""
        session = Session(model, self.options.training(self.steps, rate), next(model.parameters()).device)

        def listen(event: Event) -> None:
            if isinstance(event, Progress):
                self.report(Prepared(what, event.step, event.steps))

        fit(session, self.batches, self.validation, listen, stop=self.stop)
        if session.validation_loss is None:
            raise FathomError("stopped before the experiment was done; nothing was written")
        model.eval()
        return session.validation_loss


@contextmanager
def standing(
    model: Transformer, tokenizer: Tokenizer, options: RankOptions, report: Report, stop: Callable[[], bool]
) -> Iterator[Ground]:
    """The data of a fine-tune in a folder that goes with the block, and how many steps the minutes allow."""
    most = model.config.context_length
    length = options.context_length or min(most, LONG if holds_records(options.data) else SHORT)
    if length > most:
        raise FathomError(f"context_length is {length}; the model has {most}, give at most that")
    training, tuning = options.training(1, 1.0), FinetuneOptions(method="full")
    with tempfile.TemporaryDirectory() as folder:
        facts = prepare(Path(folder) / "data", tokenizer, training, tuning, length, silent)
        base = Base(path="", fingerprint="")  # the data do not hang on it
        run = TunedRun(Path(folder), model.config, training, tokenizer, facts, base, tuning, length)
        validation = run.validation()
        rows = sum(len(chunk if isinstance(chunk, Tensor) else chunk.ids) for chunk in validation)
        text = Text(facts.corpus, facts.fingerprint, facts.kind, facts.n_train, facts.n_val, rows)
        ground = Ground(options, text, run.batches(), validation, options.steps or 0, report, stop)
        yield ground if options.steps else replace(ground, steps=planned(model, ground))


def planned(model: Transformer, ground: Ground) -> int:
    """The steps of each training, so that all of them and all losses take the minutes."""
    session = Session(copy.deepcopy(model), ground.options.training(PROBE, 1e-9), next(model.parameters()).device)
    update(session, ground.batches.at(0))  # warms up
    start = time.monotonic()
    for step in range(1, PROBE):
        update(session, ground.batches.at(step))
    each = (time.monotonic() - start) / (PROBE - 1)
    start = time.monotonic()
    ground.loss(session.model)
    fixed = EVALUATIONS * (time.monotonic() - start)
    adapters = sum(rank > 0 for rank in ground.options.ranks) or model.config.d_model.bit_length()
    trainings = 2 + adapters  # in full, at each rank, and at the recommended ones
    steps = int((SLACK * 60 * ground.options.minutes - fixed) / (trainings * each))
    if steps < FEWEST:
        needed = (fixed + FEWEST * trainings * each) / SLACK / 60
        raise FathomError(
            f"minutes={ground.options.minutes:g} is too short: {trainings} trainings of {FEWEST} steps take"
            f" {needed:.1f} minutes here; give more minutes, fewer ranks or a smaller batch_size"
        )
    return steps
