"""Pre-flight summary and warnings: what this run is, and what looks wrong while it costs nothing to stop.

Changes nothing; every figure is arithmetic on the config or measured on the data at hand.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from fathom.adapters import lora
from fathom.anatomy import training
from fathom.anatomy.cost import n_active_parameters, n_parameters
from fathom.anatomy.training import Step
from fathom.data.batches import Batch
from fathom.data.token_file import Tokens
from fathom.families.registry import obstacles
from fathom.machine import describe as describe_device
from fathom.machine import free_memory
from fathom.model.config import ResolvedConfig
from fathom.tokenizer.protocol import TokenArray
from fathom.training.batches import rows_at_once
from fathom.training.events import Evaluated, Event, Note
from fathom.training.loop import evaluate
from fathom.training.optimizers import optimizer_named
from fathom.training.run import FinetuneRun, Run
from fathom.training.session import Session
from fathom.training.travels import travels
from fathom.words import counted

TOLERANCE = 1e-3  # of a loss: what rounding in bf16 leaves of PiSSA's and DoRA's start
FAR_OFF = 0.5  # nats between the first loss and ln V: a new model knows nothing, and shows it
FEW_WINDOWS = 20  # a text of fewer is memorised
PROBES, SNIPPET, SEARCHED = 64, 48, 1 << 24  # snippets of validation text, their tokens, and in how many to search


def preflight(run: Run, session: Session, validation: Sequence[Tensor | Batch]) -> Iterator[Event]:
    """Everything worth knowing before the first step."""
    if isinstance(run, FinetuneRun):
        yield from finetune_data(run)
        yield from base(run, session)
        yield from setup(session)
        yield from finetune_first_loss(run, session, validation)
    else:
        yield from text(run)
        yield from new_model(run, session)
        yield from setup(session)
        yield from text_warnings(run)
        yield from memory_warnings(session)
        yield from first_loss(session, validation)


def setup(session: Session) -> Iterator[Note]:
    """The machine, and what each optimizer gets."""
    yield Note(f"machine: {describe_device(session.device)}; {session.precision.describe()}; {session.compilation}")
    if session.learner.reason:
        yield Note(session.learner.reason)
    for group in session.groups:
        yield Note(
            f"{group.role}: {group.optimizer}, {counted(group.count, 'parameter')} in "
            f"{counted(len(group.parameters), 'tensor')}, learning rate {group.learning_rate:g}, "
            f"weight decay {group.weight_decay:g}"
        )
    if session.balance is not None:
        yield Note(
            f"experts: each token meets {n_active_parameters(session.model.config):,} parameters; the load-balancing "
            f"loss counts {session.balance.coefficient:g} times"
        )


def text(run: Run) -> Iterator[Note]:
    options, data = run.options, run.data
    yield Note(f"text: {data.corpus}, {data.n_train:,} tokens to learn from, {data.n_val:,} to validate on")
    per_step = options.batch_size * run.config.context_length
    epochs = f", {options.max_iters * per_step / data.n_train:.1f} passes over the text"
    if options.max_minutes is not None:
        epochs = f", or {counted(options.max_minutes, 'minute')}, whichever comes first"
    yield Note(f"plan: {counted(options.max_iters, 'step')} of {counted(per_step, 'token')}{epochs}")


def new_model(run: Run, session: Session) -> Iterator[Note]:
    size = memory(session)["all"]
    yield exports(run, session.model.config)
    yield Note(f"model: {n_parameters(session.model.config):,} parameters; about {size / 2**20:,.0f} MiB to train")
    unused = session.model.config.vocab_size - run.tokenizer.vocab_size
    if unused:
        rows = counted(unused, "row of the model is", "rows of the model are")
        yield Note(f"vocabulary: {run.tokenizer.vocab_size:,} tokens; {rows} never used")


def exports(run: Run, config: ResolvedConfig) -> Note:
    """Which other formats hold the model and the tokenizer of this run; where none does, what stands in the way."""
    if (found := travels(config, run.tokenizer.kind)) is None:
        return Note(f"exports to: nothing, as no other format holds {obstacles(config)}")
    family, names = found
    return Note(f"exports to: {', '.join(names)} (as {family.title})")


def step_of(session: Session) -> Step:
    """A step of this session, as arithmetic sees it."""
    options, config, dtype = session.options, session.model.config, session.precision.dtype
    own = options.batch_size // session.world.size  # rows of a process
    rows = rows_at_once(options.batch_size, options.micro_batch_size, session.world)
    kind = optimizer_named(options.optimizer)
    fused = session.device.type == "cpu" and dtype != torch.float32
    return Step(
        config.context_length, rows, own // rows, "full", dtype.itemsize, fused,
        options.checkpoint_blocks, state=kind.state_bytes, scratch=kind.scratch_bytes,
    )  # fmt: skip


def memory(session: Session) -> dict[str, int]:
    """Bytes by kind that a step needs in this process, as the batch is divided, and `all` that it holds at once."""
    step, config = step_of(session), session.model.config
    kinds = training.memory(config, step)
    if session.learner.divided:
        kinds = training.shared(config, step, kinds, session.world.size)
    return {name: kind.n for name, kind in kinds.items()} | {"all": training.peak(kinds, step).n}


def memory_warnings(session: Session) -> Iterator[Note]:
    size, free = memory(session)["all"], free_memory(session.device)
    if free is not None and size > free:
        yield Note(
            f"training needs about {size / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free; "
            "set --train.micro-batch-size or a smaller model",
            warning=True,
        )


def text_warnings(run: Run) -> Iterator[Note]:
    """A text that is too short to learn from, or validation text that is also trained on."""
    windows = run.data.n_train // run.config.context_length
    if windows < FEW_WINDOWS:
        yield Note(
            f"the text is {counted(windows, 'window')} of {run.config.context_length} tokens: the model will "
            "memorise it; use a longer text or a smaller --context-length",
            warning=True,
        )
    share = overlap(run.tokens("train"), run.tokens("val"))
    if share > 0.2:
        yield Note(
            f"{share:.0%} of the validation text is also in the training text: the validation loss will look better "
            "than it is; remove repeated documents",
            warning=True,
        )


def overlap(train: Tokens, val: Tokens) -> float:
    """The share of snippets of the validation tokens that the training tokens (the first SEARCHED) hold too."""
    length, searched = min(SNIPPET, len(val)), np.asarray(train[:SEARCHED])
    starts = sorted({i * (len(val) - length) // PROBES for i in range(PROBES)})
    return sum(contains(searched, val[start : start + length]) for start in starts) / len(starts)


def contains(tokens: TokenArray, snippet: TokenArray) -> bool:
    """Whether the tokens of the snippet follow one another somewhere in `tokens`."""
    places = np.flatnonzero(tokens[: max(0, len(tokens) - len(snippet) + 1)] == snippet[0])
    for offset in range(1, len(snippet)):
        places = places[tokens[places + offset] == snippet[offset]]
    return len(places) > 0


def first(session: Session, validation: Sequence[Tensor | Batch]) -> float:
    """The validation loss of a session that has not made a step."""
    loss = evaluate(session.model, validation, session.precision, session.world)
    session.learner.let_go()
    return loss


def first_loss(session: Session, validation: Sequence[Tensor | Batch]) -> Iterator[Note]:
    """The loss of a model that knows nothing is that of guessing: ln V."""
    loss, n_tokens = first(session, validation), session.model.config.vocab_size
    off = abs(loss - math.log(n_tokens)) > FAR_OFF
    yield Note(
        f"loss before step 1: {loss:.4f}; guessing among {n_tokens:,} tokens is {math.log(n_tokens):.4f}"
        + (": far off, so the initial weights or the targets are not what they should be" * off),
        warning=off,
    )


def finetune_data(run: FinetuneRun) -> Iterator[Note]:
    data, options = run.data, run.options
    yield Note(f"data: {data.corpus}: {data.kind}")
    learned = "answers are learned, questions are not" if run.tuning.mask_prompt else "all of each record is learned"
    if data.records:
        packed = f", packed into {counted(data.n_train_rows, 'row')}" if run.tuning.pack else ""
        yield Note(
            f"{counted(data.n_examples, 'example')}{packed}: {data.n_train:,} tokens to learn,"
            f" {data.n_val:,} to validate on; {learned}"
        )
    else:
        yield Note(f"{data.n_train:,} tokens to learn from, {data.n_val:,} to validate on")
    if data.n_cut or data.n_dropped:
        yield Note(
            f"of {data.n_examples + data.n_dropped:,} records {data.n_cut:,} were longer than {run.length:,} tokens"
            f" and cut at the end, {data.n_dropped:,} were dropped: nothing to learn was left in them",
            warning=True,
        )
    if data.n_shared > 0.05 * data.n_val_rows:
        shared = counted(data.n_shared, "validation example is", "validation examples are")
        yield Note(
            f"{shared} also trained on: the validation loss will look better than it is",
            warning=True,
        )
    epochs = options.max_iters * options.batch_size / data.n_train_rows
    rows = counted(options.batch_size, "row")
    yield Note(f"plan: {counted(options.max_iters, 'step')} of {rows}, {epochs:.1f} passes over the data")


def base(run: FinetuneRun, session: Session) -> Iterator[Note]:
    total, trained = n_parameters(session.model.config), sum(group.count for group in session.groups)
    packed = f", packed as {run.tuning.packing}" if run.tuning.packing else ""
    yield Note(f"base: {run.base.path}, {total:,} parameters{packed}")
    yield Note(f"method {run.tuning.method}: {trained:,} parameters learn, {trained / total:.2%} of the base's number")


def finetune_first_loss(run: FinetuneRun, session: Session, validation: Sequence[Tensor | Batch]) -> Iterator[Event]:
    """The loss before step 1 beside the base's own: where they differ, the adapter does not begin as no change."""
    tuning = run.tuning
    loss = own = first(session, validation)
    if tuning.adapted:
        with without_adapter(session):
            own = first(session, validation)
    exact = not tuning.adapted or (tuning.init == "default" and tuning.method != "dora")
    off = abs(loss - own) > (0 if exact else TOLERANCE * own)
    yield Note(
        f"loss before step 1: {loss:.4f}; the base's own: {own:.4f}"
        + (": they differ, so the adapter does not begin as no change" if off else ""),
        warning=off,
    )
    yield Evaluated(0, loss, seconds=0.0)


@contextmanager
def without_adapter(session: Session) -> Iterator[None]:
    lora.disable(session.model)
    try:
        yield
    finally:
        lora.enable(session.model)
