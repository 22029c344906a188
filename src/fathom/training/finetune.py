"""`fathom.finetune`: a model that exists, trained further: all of it, or an adapter on frozen, perhaps packed weights.

Hu et al. 2021 (LoRA), Dettmers et al. 2023 (QLoRA). A run of it goes the way of `fathom.train`; here is how it begins:
the base, the defaults that follow from it and from the data, and the base again when the run is resumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from fathom.data.record_files import is_record_file
from fathom.errors import FathomError, near
from fathom.fields import build
from fathom.files import replacing_folder
from fathom.formats.detect import open_model
from fathom.formats.fingerprint import fingerprint
from fathom.formats.tokenizer import require_tokenizer, tokenizer_in
from fathom.machine import keep_freed_memory, pick_device
from fathom.tokenizer.add import with_tokens
from fathom.tokenizer.turns import with_template
from fathom.tokenizer.typed import uniform
from fathom.training.data import prepare
from fathom.training.events import Report, silent
from fathom.training.options import SET_BY_BASE, FinetuneOptions, TrainOptions
from fathom.training.result import Result
from fathom.training.run import Base, FinetuneRun, open_finetune_run, require_replaceable, write_run
from fathom.training.shown import shown
from fathom.training.together import created_by_first, of_program, require_same, was_created_before
from fathom.training.trackers import require_packages
from fathom.training.train import (
    continue_run,
    require_mode,
    require_several,
    require_unchanged,
    resume,
    with_options,
)
from fathom.training.tuning import duration, micro_batch, row_length, with_defaults
from fathom.training.world import joined

Values = Mapping[str, Any]


def finetune(
    model: str | Path | None,
    data: str | Path | None = None,
    out_dir: str | Path | None = None,
    *,
    options: Values | None = None,
    train: Values | None = None,
    mode: str = "new",
    report: Report | None = None,
    **changes: Any,
) -> Result:
    """Train a model that exists further: an adapter on it, or all of its weights.

        >>> result = fathom.finetune("runs/demo", "questions.jsonl", "runs/answers", rank=16, max_minutes=5)
        >>> print(fathom.chat("runs/answers").ask("What is a token?"))

    model: the path of a model in any format; with mode="resume" only where it has moved. data: .json or .jsonl records,
    whose answers are learned, or text. out_dir: the run's folder, default runs/finetune. options: fields of
    FinetuneOptions: method (lora, dora, qlora or full), rank, epochs, target, quantize ... train: fields of
    TrainOptions: learning_rate, max_iters (steps), max_minutes ... A field of either may be given by its name instead.
    mode: new, overwrite, or resume, where only how long and how often may change. report: called with each event;
    default: shown in a notebook, silent elsewhere.

    Returns a Result: `.folder`, `.validation_loss` (nats per token), `.history`, `.plot()`. FathomError, with nothing
    lost: no such model or data, a wrong option, or the loss diverges.
    """
    keep_freed_memory()
    require_mode(mode)
    options, train = {**(options or {})}, {name.replace("-", "_"): value for name, value in (train or {}).items()}
    for name, value in changes.items():
        (options if is_finetuning(name) else train)[name] = value
    train |= {} if data is None else {"data": str(data)}
    folder = Path(out_dir or Path("runs") / "finetune")
    if other := next((name for name in SET_BY_BASE if name in train), None):
        raise FathomError(f"{other} was given; it comes from the base model: leave it out")
    device = str(train.get("device", "auto"))
    if mode == "resume":
        run = reopen(folder, model, options, train)
        device = run.options.device
    with joined(device) as world, shown(report if world.first else silent, folder) as listener:
        require_several(world, train)
        require_same(world, {**of_program(), "mode": mode, **options, **train})
        if mode != "resume" and was_created_before(world, folder):
            mode, run = "resume", open_finetune_run(folder)
        if mode == "resume":
            return continue_run(run, resume(run, listener, world), listener)

        def create() -> AbstractContextManager[FinetuneRun]:
            return created(folder, model, options, train, mode == "overwrite", listener)

        with created_by_first(world, create, open_finetune_run) as run:
            session = run.start(world)
        return continue_run(replace(run, folder=folder), session, listener)


def is_finetuning(name: str) -> bool:
    """Whether this is a field of FinetuneOptions, and not of TrainOptions. FathomError where it is of neither."""
    ours, others = ({f.name for f in fields(cls)} for cls in (FinetuneOptions, TrainOptions))
    if name not in ours | others:
        raise FathomError(
            f"{name} was given; expected a field of FinetuneOptions or TrainOptions{near(name, ours | others)}"
        )
    return name in ours


@contextmanager
def created(
    folder: Path, model: str | Path | None, options: Values, declared: Values, overwrite: bool, report: Report
) -> Iterator[FinetuneRun]:
    """A new run, beside its place. It moves to `folder` when the block has succeeded."""
    if model is None or "data" not in declared:
        raise FathomError("finetune needs a model and data; for example: fathom finetune runs/demo --data FILE.jsonl")
    tuning = build(FinetuneOptions, options, "finetune")
    require_replaceable(folder, overwrite)
    opened = open_model(model)
    tokenizer = with_tokens(require_tokenizer(tokenizer_in(opened), model), tuning.add_token)
    tokenizer = with_template(tokenizer, tuning.chat_template) if tuning.own_tokenizer else tokenizer
    rows = max(opened.config.vocab_size, tokenizer.vocab_size if tuning.add_token else 0)
    config = replace(opened.config, vocab_size=rows)
    train = with_defaults(declared, tuning, config.d_model)
    require_packages(train.log or ())
    length = row_length(tuning, config, is_record_file(train.data))
    device = pick_device(train.device)  # one that is not here is refused before anything is written
    if device.type == "cpu" and "micro_batch_size" not in declared:
        train = replace(train, micro_batch_size=micro_batch(train.batch_size, length * config.d_model))
    tokenizer.encode(uniform(train.sample_prompt) + uniform(tuning.ask or ""))
    with replacing_folder(folder) as new:
        summary = prepare(new / "data", tokenizer, train, tuning, length, report)
        base = Base(location(model), fingerprint(model))
        length_of_run = duration(declared, tuning, summary.n_train_rows, train.batch_size)
        train = build(TrainOptions, asdict(train) | length_of_run, "train")
        run = FinetuneRun(new, config, train, tokenizer, summary, base, replace(tuning, context_length=length))
        require_rows(run)
        write_run(run)
        yield run


def require_rows(run: FinetuneRun) -> None:
    """FathomError where the data has a token for which the model has no row: some tokenizers have a few more."""
    held = run.config.vocab_size
    if run.tokenizer.vocab_size <= held:
        return
    for part in ("train", "val"):
        ids = run.examples(part).ids if run.data.records else run.tokens(part)
        if len(ids) and (last := int(ids.max())) >= held:
            raise FathomError(
                f"{run.options.data} has token {last}, {run.tokenizer.decode([last])!r}, and the model has rows for"
                f" {held:,} tokens; leave such tokens out of the data, or give a model with rows for them"
            )


def reopen(folder: Path, model: str | Path | None, options: Values, declared: Values) -> FinetuneRun:
    """The run in `folder` with some of its TrainOptions changed; `model`: where its base is now, if it has moved."""
    run = open_finetune_run(folder)
    require_unchanged(folder, "finetune", options, run.tuning)
    return replace(with_options(run, declared), base=same_base(run, model))


def same_base(run: FinetuneRun, model: str | Path | None) -> Base:
    """The base where it is now. FathomError where it is gone or another."""
    path = run.base.path if model is None else location(model)
    try:
        actual = fingerprint(path)
    except FathomError as problem:
        raise FathomError(
            f"{run.folder} was created from {run.base.path}: {problem}; if it has moved, name it:"
            f" fathom finetune MODEL --resume --out-dir {run.folder}"
        ) from None
    if actual != run.base.fingerprint:
        raise FathomError(
            f"{path} is not the model that {run.folder} was created from, or it has changed; give the original"
        )
    return Base(path, actual)


def location(model: str | Path) -> str:
    """A path that is valid from any folder, or the name of a model elsewhere."""
    return str(Path(model).resolve() if Path(model).exists() else model)
