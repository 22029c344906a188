"""What is said before the first step of fine-tuning: what is learned, from what, and that nothing has changed yet.

An adapter begins by changing nothing: the loss must be that of the base, which is measured beside it. Does not change
anything.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from fathom.adapters import lora
from fathom.data.batches import Batch
from fathom.machine import describe as describe_device
from fathom.model.cost import n_parameters
from fathom.train.events import Evaluated, Event, Note
from fathom.train.finetune_run import TunedRun
from fathom.train.loop import Session, evaluate

NEAR = 1e-3  # of a loss: what is left of PiSSA's and DoRA's rounding in bf16


def notes(run: TunedRun, session: Session, validation: Sequence[Tensor | Batch]) -> Iterator[Event]:
    """Everything worth knowing, with the loss and a sample of what the model says now."""
    yield from data(run)
    yield from learners(run, session)
    yield from first_loss(run, session, validation)


def data(run: TunedRun) -> Iterator[Note]:
    facts, tuning = run.facts, run.tuning
    yield Note(f"data: {facts.corpus}: {facts.kind}")
    learned = "answers are learned, questions are not" if tuning.mask_prompt else "all of each record is learned"
    if facts.records:
        packed = f", packed into {facts.n_train_rows:,} rows" if tuning.pack else ""
        yield Note(f"{facts.n_examples:,} examples{packed}: {facts.n_train:,} tokens to learn, {facts.n_val:,} to"
                   f" validate on; {learned}")  # fmt: skip
    else:
        yield Note(f"{facts.n_train:,} tokens to learn from, {facts.n_val:,} to validate on")
    if facts.n_cut or facts.n_dropped:
        yield Note(
            f"of {facts.n_examples + facts.n_dropped:,} records {facts.n_cut:,} were longer than {run.length:,} tokens"
            f" and cut at the end, {facts.n_dropped:,} were dropped: nothing to learn was left in them",
            warning=True,
        )
    if facts.n_shared > 0.05 * facts.n_val_rows:
        yield Note(
            f"{facts.n_shared:,} validation examples also stand among those that are learned: the validation loss will"
            " look better than it is",
            warning=True,
        )


def learners(run: TunedRun, session: Session) -> Iterator[Note]:
    total, learn = n_parameters(session.model.config), sum(group.count for group in session.groups)
    packed = f", kept in {run.tuning.packing}" if run.tuning.packing else ""
    yield Note(f"base: {run.base.path}, {total:,} parameters{packed}")
    yield Note(f"machine: {describe_device(session.device)}; {session.precision.describe()}; {session.compilation}")
    yield Note(f"method {run.tuning.method}: {learn:,} parameters learn, {learn / total:.2%} of the base's number")
    for group in session.groups:
        yield Note(
            f"{group.role}: {group.optimizer}, {group.count:,} parameters in {len(group.parameters)} tensors, "
            f"learning rate {group.learning_rate:g}, weight decay {group.weight_decay:g}"
        )
    steps, rows = run.options.max_iters, run.options.batch_size
    yield Note(f"plan: {steps:,} steps of {rows:,} rows, {steps * rows / run.facts.n_train_rows:.1f} times the data")


def first_loss(run: TunedRun, session: Session, validation: Sequence[Tensor | Batch]) -> Iterator[Event]:
    """The loss before step 1 beside the base's own: where they differ, the adapter does not begin at nothing."""
    loss = base = evaluate(session.model, validation, session.precision)
    if run.adapted:
        with base_alone(session):
            base = evaluate(session.model, validation, session.precision)
    exact = not run.adapted or (run.tuning.init == "default" and run.tuning.method != "dora")
    off = abs(loss - base) > (0 if exact else NEAR * base)
    yield Note(
        f"loss before step 1: {loss:.4f}; the base's own: {base:.4f}"
        + (": they differ, so the adapter does not begin where the base is" if off else ""),
        warning=off,
    )
    yield Evaluated(0, loss)


@contextmanager
def base_alone(session: Session) -> Iterator[None]:
    """The model without its adapter."""
    lora.disable(session.model)
    try:
        yield
    finally:
        lora.enable(session.model)
