"""`fathom.finetune`: a model that exists, trained further: all of it, or an adapter on frozen, perhaps packed weights.

Hu et al. 2021 (LoRA), Dettmers et al. 2023 (QLoRA). The loop, checkpoints and all that is said are those of `train`;
here is only what the model begins as, and which of its parameters learn.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from math import ceil
from pathlib import Path
from typing import Any

from torch import Tensor

from fathom.data.batches import Batch
from fathom.data.records import is_record_file
from fathom.errors import FathomError
from fathom.fields import build
from fathom.formats.config_file import CONFIG, read_config, write_config
from fathom.formats.detect import open_model
from fathom.formats.fingerprint import fingerprint
from fathom.formats.load import needed, tokenizer_of
from fathom.machine import keep_freed_memory, pick_device
from fathom.model.config import ModelConfig
from fathom.tokenizer import load as tokenizers
from fathom.train.events import Event, Report, Sample, silent
from fathom.train.finetune_run import Base, TunedFacts, TunedRun, prepare
from fathom.train.options import SAID_BY_MODEL, FinetuneOptions, TrainOptions, learning_rate
from fathom.train.preflight import finetune_notes
from fathom.train.run import FACTS, placed, refuse_existing
from fathom.train.session import Session
from fathom.train.train import Result, go_on, refuse_other, stand, write_sample

Values = Mapping[str, Any]
DEFAULTS: dict[str, Any] = {"batch_size": 8, "weight_decay": 0.0, "eval_windows": 64, "sample_tokens": 80}
EPOCHS, EVALUATIONS, LONGEST, WINDOW = 3.0, 10, 1024, 256
AT_ONCE = 2**19  # numbers of the stream that a CPU works on at a time: products are as fast, less is held for backward


def finetune(
    model: str | Path | None,
    data: str | Path | None = None,
    out_dir: str | Path | None = None,
    *,
    options: Values | None = None,
    train: Values | None = None,
    mode: str = "new",
    report: Report = silent,
) -> Result:
    """Train the model at `model`, of any format, further on `data`, in a run folder (default runs/finetune).

    data: .json or .jsonl records, or text. options, train: fields of FinetuneOptions and TrainOptions. mode: new,
    overwrite, or resume, where what is said may change nothing but how long and how often; `model` is then only needed
    where the base has moved. Raises FathomError, with nothing lost.
    """
    keep_freed_memory()
    said = {name.replace("-", "_"): value for name, value in (train or {}).items()}
    said |= {} if data is None else {"data": str(data)}
    folder = Path(out_dir or Path("runs") / "finetune")
    if other := next((name for name in SAID_BY_MODEL if name in said), None):
        raise FathomError(f"{other} was given; a model that exists brings its own along: leave it out")
    if mode == "resume":
        run = resumed(folder, model, options or {}, said)
        session = Session.tune(open_model(run.base.path), run.options, run.tuning)
        stand(run, session, report)
    elif mode in ("new", "overwrite"):
        run, session = begun(folder, model, options or {}, said, mode == "overwrite", report)
    else:
        raise FathomError(f"mode is {mode!r}; choose one of new, overwrite, resume")
    return trained(run, session, report)


def trained(run: TunedRun, session: Session, report: Report) -> Result:
    """The run to its end, with what the model writes before and after."""

    def before(run: TunedRun, session: Session, validation: Sequence[Tensor | Batch]) -> Iterator[Event]:
        yield from finetune_notes(run, session, validation)
        yield Sample(0, write_sample(run, session))

    result = go_on(run, session, report, before)
    if session.finished:
        report(Sample(session.step, write_sample(run, session)))
    return result


def begun(
    folder: Path, model: str | Path | None, options: Values, said: Values, overwrite: bool, report: Report
) -> tuple[TunedRun, Session]:
    """A new run, in its place once nothing can be refused any more, and a session at its first step."""
    if model is None or "data" not in said:
        raise FathomError("a model and data are needed; such as fathom finetune MODEL --data FILE")
    tuning = build(FinetuneOptions, options, "finetune")
    refuse_existing(folder, overwrite)
    opened = open_model(model)
    tokenizer = needed(tokenizer_of(opened), model)
    rate = learning_rate(tuning.method, opened.config.d_model)
    train = build(TrainOptions, {**DEFAULTS, "learning_rate": rate, **said}, "train")
    length = row_length(tuning, opened.config, train.data)
    device = pick_device(train.device)  # one that is not here is refused before anything is made
    if device.type == "cpu" and "micro_batch_size" not in said:
        train = replace(train, micro_batch_size=micro_batch(train.batch_size, length * opened.config.d_model))
    tokenizer.encode(train.sample_prompt)
    with placed(folder) as new:
        facts = prepare(new / "data", tokenizer, train, tuning, length, report)
        tokenizers.save(tokenizer, new / tokenizers.FILE)
        (new / FACTS).write_text(json.dumps(asdict(facts), indent=1))
        base = Base(str(Path(model).resolve() if Path(model).exists() else model), fingerprint(model))
        train = build(TrainOptions, {**asdict(train), **duration(said, tuning, facts, train.batch_size)}, "train")
        run = TunedRun(new, opened.config, train, tokenizer, facts, base, tuning, length)
        write_config(new / CONFIG, run.plain())
        session = Session.tune(opened, train, tuning)
    return replace(run, folder=folder), session


def row_length(tuning: FinetuneOptions, config: ModelConfig, data: str) -> int:
    """Tokens that a row reads at most."""
    most, asked = config.context_length, tuning.context_length
    if asked is not None and asked > most:
        raise FathomError(f"context_length={asked}, and the model was made for {most}; give at most that")
    return min(most, LONGEST if is_record_file(data) else WINDOW) if asked is None else asked


def micro_batch(rows: int, numbers: int) -> int:
    """How many of a step's rows, of so many numbers each, go through the model at a time: a divisor of `rows`."""
    return max(n for n in range(1, rows + 1) if rows % n == 0 and (n == 1 or n * numbers <= AT_ONCE))


def duration(said: Values, tuning: FinetuneOptions, facts: TunedFacts, rows: int) -> dict[str, int]:
    """Steps, and steps between evaluations, where they were not said."""
    if "max_iters" in said and tuning.epochs is not None:
        raise FathomError("epochs and max_iters were both given; how long to train is said once: leave one out")
    steps = int(said.get("max_iters") or ceil((tuning.epochs or EPOCHS) * facts.n_train_rows / rows))
    return {"max_iters": steps, "eval_interval": int(said.get("eval_interval") or max(1, round(steps / EVALUATIONS)))}


def resumed(folder: Path, model: str | Path | None, options: Values, said: Values) -> TunedRun:
    """The run in `folder`, which keeps its choices; `model` where its base lies elsewhere now."""
    values = read_config(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    if not {"base", "finetune", "train", "model"} <= values.keys():
        raise FathomError(f"{folder} holds no run of fine-tuning; start one: fathom finetune MODEL --data FILE")
    where = f"{folder / CONFIG}: "
    base = build(Base, values["base"], f"{where}base")
    tuning = build(FinetuneOptions, values["finetune"], f"{where}finetune")
    train = build(TrainOptions, values["train"], f"{where}train")
    refuse_other(folder, "finetune", options, tuning)
    refuse_other(folder, "train", said, train)
    tokenizer = tokenizers.load(folder / tokenizers.FILE)
    try:
        facts = build(TunedFacts, json.loads((folder / FACTS).read_text()), str(folder / FACTS))
    except (OSError, ValueError) as error:
        raise FathomError(f"{folder / FACTS} cannot be read: {error}; the run is incomplete, train it anew") from None
    config = build(ModelConfig, values["model"], f"{where}model")
    base = same_base(base, model, folder)
    train = build(TrainOptions, {**asdict(train), **said}, "train")
    return TunedRun(folder, config, train, tokenizer, facts, base, tuning, tuning.context_length or 0)


def same_base(base: Base, model: str | Path | None, folder: Path) -> Base:
    """The base where it lies now. FathomError where it is gone or another."""
    path = base.path if model is None else str(Path(model).resolve() if Path(model).exists() else model)
    try:
        found = fingerprint(path)
    except FathomError as problem:
        raise FathomError(f"{folder} was made from {base.path}: {problem}; if it lies elsewhere now, name it:"
                          f" fathom finetune MODEL --resume --out-dir {folder}") from None  # fmt: skip
    if found != base.fingerprint:
        raise FathomError(f"{path} is not the model that {folder} was made from, or it has changed; give that one")
    return Base(path, found)
