"""What is said before step 1: what this run is, and what looks wrong about it while it costs nothing to stop.

Does not change anything; every figure is arithmetic on the config or measured on the data at hand.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from torch import Tensor

from fathom.adapters import lora
from fathom.data.batches import Batch
from fathom.machine import describe as describe_device
from fathom.machine import free_memory
from fathom.model.cost import kept_per_token, n_parameters, training_bytes
from fathom.tokenizer.protocol import TokenArray
from fathom.train.events import Evaluated, Event, Note
from fathom.train.finetune_run import TunedRun
from fathom.train.loop import evaluate
from fathom.train.loss import AT_ONCE
from fathom.train.run import Run
from fathom.train.session import Session

# What is said before the first step of fine-tuning: what is learned, from what, and that nothing has changed yet.
#
# An adapter begins by changing nothing: the loss must be that of the base, which is measured beside it. Does not
# change anything.

NEAR = 1e-3  # of a loss: what is left of PiSSA's and DoRA's rounding in bf16


def finetune_notes(run: TunedRun, session: Session, validation: Sequence[Tensor | Batch]) -> Iterator[Event]:
    """Everything worth knowing, with the loss and a sample of what the model says now."""
    yield from data(run)
    yield from learners(run, session)
    yield from finetune_first_loss(run, session, validation)


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


def finetune_first_loss(run: TunedRun, session: Session, validation: Sequence[Tensor | Batch]) -> Iterator[Event]:
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


OFF = 0.5  # nats between the first loss and ln V: a new model should know nothing, and know that
SPARSE = 20  # a text of fewer windows than this is learned by heart
PROBES, SNIPPET, SEARCHED = 64, 48, 1 << 24  # snippets of validation text, their tokens, and in how many to look


def notes(run: Run, session: Session, validation: Sequence[Tensor | Batch]) -> Iterator[Note]:
    """Everything worth knowing before the first step."""
    yield from facts(run, session)
    yield from text_warnings(run)
    yield from memory_warnings(session)
    yield from first_loss(session, validation)


def facts(run: Run, session: Session) -> Iterator[Note]:
    options, text = session.options, run.facts
    yield Note(f"text: {text.corpus}, {text.n_train:,} tokens to learn from, {text.n_val:,} to validate on")
    needed = sum(memory(session).values())
    yield Note(f"model: {n_parameters(session.model.config):,} parameters; about {needed / 2**20:,.0f} MiB to train")
    yield Note(f"machine: {describe_device(session.device)}; {session.precision.describe()}; {session.compilation}")
    for group in session.groups:
        yield Note(
            f"{group.role}: {group.optimizer}, {group.count:,} parameters in {len(group.parameters)} tensors, "
            f"learning rate {group.learning_rate:g}, weight decay {group.weight_decay:g}"
        )
    unused = session.model.config.vocab_size - run.tokenizer.vocab_size
    if unused:
        yield Note(f"vocabulary: {run.tokenizer.vocab_size:,} tokens; {unused:,} more rows of the model are never used")
    per_step = options.batch_size * session.model.config.context_length
    epochs = options.max_iters * per_step / text.n_train
    yield Note(f"plan: {options.max_iters:,} steps of {per_step:,} tokens, {epochs:.1f} times the text")


def memory(session: Session) -> dict[str, int]:
    """Bytes by kind that a step needs, with the micro-batch as it is."""
    options, config = session.options, session.model.config
    rows, itemsize = options.micro_batch_size or options.batch_size, session.precision.dtype.itemsize
    kinds = training_bytes(config, config.context_length, rows, itemsize)
    if options.checkpoint_blocks:  # of each block what enters it, and all of the one whose gradient is computed
        per_token = (config.n_layer + 2) * config.d_model + kept_per_token(config)
        kinds["activations"] = rows * config.context_length * per_token * itemsize
    kinds["optimizer"] = sum(group.state_bytes for group in session.groups)
    kinds["logits"] = min(kinds["logits"], 3 * AT_ONCE * itemsize)  # more come in pieces
    return kinds


def text_warnings(run: Run) -> Iterator[Note]:
    """A text that is too short to learn from, or validation text that stands in the training text too."""
    windows = run.facts.n_train // run.config.context_length
    if windows < SPARSE:
        yield Note(
            f"the text is {windows} windows of {run.config.context_length} tokens: the model will learn it by heart; "
            "use a longer text or a smaller --block-size",
            warning=True,
        )
    share = overlap(run.tokens("train"), run.tokens("val"))
    if share > 0.2:
        yield Note(
            f"{share:.0%} of the validation text also stands in the training text: the validation loss will look "
            "better than it is; remove repeated documents",
            warning=True,
        )


def overlap(train: TokenArray, val: TokenArray) -> float:
    """The share of snippets of the validation tokens that the training tokens (the first SEARCHED) hold too."""
    length, hay = min(SNIPPET, len(val)), np.asarray(train[:SEARCHED])
    starts = sorted({i * (len(val) - length) // PROBES for i in range(PROBES)})
    return sum(stands_in(hay, val[start : start + length]) for start in starts) / len(starts)


def stands_in(hay: TokenArray, needle: TokenArray) -> bool:
    """Whether these tokens follow one another somewhere in `hay`."""
    places = np.flatnonzero(hay[: max(0, len(hay) - len(needle) + 1)] == needle[0])
    for offset in range(1, len(needle)):
        places = places[hay[places + offset] == needle[offset]]
    return len(places) > 0


def memory_warnings(session: Session) -> Iterator[Note]:
    needed, free = sum(memory(session).values()), free_memory(session.device)
    if free is not None and needed > free:
        yield Note(
            f"training needs about {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free; "
            "set --train.micro-batch-size or a smaller model",
            warning=True,
        )


def first_loss(session: Session, validation: Sequence[Tensor | Batch]) -> Iterator[Note]:
    """The loss of the model that knows nothing should be that of guessing: ln V."""
    loss = evaluate(session.model, validation, session.precision)
    guess = math.log(session.model.config.vocab_size)
    off = abs(loss - guess) > OFF
    yield Note(
        f"loss before step 1: {loss:.4f}; guessing among {session.model.config.vocab_size:,} tokens is {guess:.4f}"
        + (": far off, so the weights at the start or the targets are not what they should be" * off),
        warning=off,
    )
