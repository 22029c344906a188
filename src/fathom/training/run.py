"""The folder of a run: its settings, its data, what it measured, and its checkpoints.

    config.yaml  tokenizer.json  data/  facts.json  metrics.jsonl  page.html  loss.png  checkpoints/  adapter/

A checkpoint of a run with an adapter holds it twice: `trained.safetensors` to resume from, to the bit, and as the two
files of a PEFT folder. A new folder is filled beside its place and renamed into it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from fathom.adapters import lora, peft
from fathom.data.batches import Batch, eval_windows, text_batches
from fathom.data.corpus import Corpus, resolve
from fathom.data.examples import question_ids
from fathom.data.packing import ExampleBatches, ExampleFile, eval_rows
from fathom.data.shards import is_prepared, open_shards
from fathom.data.token_file import Tokens, open_tokens
from fathom.errors import FathomError
from fathom.fields import build, plain
from fathom.files import atomic_write, replacing_folder
from fathom.formats import checkpoint
from fathom.formats.checkpoint import Content
from fathom.formats.config_file import CONFIG, read_config, write_config
from fathom.formats.detect import open_model
from fathom.formats.huggingface import tokenizer_files
from fathom.formats.run import CHECKPOINTS, DATA_SUMMARY, WEIGHTS, best_step, set_weights, weights
from fathom.formats.safetensors_file import read_tensors
from fathom.machine import pick_device
from fathom.model.config import ModelConfig
from fathom.tokenizer import load as tokenizers
from fathom.tokenizer.protocol import Tokenizer
from fathom.tokenizer.typed import uniform
from fathom.training import loop
from fathom.training.data import (
    DataSummary,
    FinetuneDataSummary,
    held_out,
    prepare_text,
    read_chunks,
    summarise_shards,
)
from fathom.training.events import Report
from fathom.training.loss import Learner
from fathom.training.options import FinetuneOptions, TrainOptions
from fathom.training.presets import Recipe
from fathom.training.session import Session
from fathom.training.world import ALONE, World

TRAINED, BEST = "trained.safetensors", "adapter"
OPENING = 8  # tokens that a sample continues where no question comes before an answer


@dataclass(frozen=True)
class Run:
    """A run that trains a model from random weights."""

    folder: Path
    config: ModelConfig
    options: TrainOptions
    tokenizer: Tokenizer
    data: DataSummary
    preset: str = field(default="", kw_only=True)  # the name of the preset that it began as
    verb: ClassVar[str] = "train"  # of the command line

    @property
    def checkpoints(self) -> Path:
        return self.folder / CHECKPOINTS

    def tokens(self, part: str) -> Tokens:
        """The token ids of "train" or "val", memory-mapped."""
        if self.data.shards:
            return self.data.prepared().tokens(part)
        return open_tokens(self.folder / "data" / f"{part}.npy", self.tokenizer.vocab_size)

    def settings(self) -> dict[str, Any]:
        """What config.yaml holds."""
        named = {"preset": self.preset} if self.preset else {}
        return named | recipe_of(self.config, self.options).sections()

    def start(self, world: World = ALONE) -> Session:
        """A session at step 0."""
        return Session.start(self.config, self.options, world)

    def batches(self) -> loop.Batches:
        """The training batch of every step."""
        return self.windows(self.config.context_length)

    def windows(self, length: int) -> loop.Batches:
        """Batches of windows of the text."""
        return text_batches(self.texts(), length, self.options.batch_size, self.options.seed)

    def texts(self) -> list[tuple[Tokens, float]]:
        """The tokens to learn from, each with its share of the windows."""
        return self.data.prepared().streams() if self.data.shards else [(self.tokens("train"), 1.0)]

    def validation(self) -> Sequence[Tensor | Batch]:
        """What the validation loss is measured on."""
        return list(eval_windows(self.tokens("val"), self.config.context_length, self.options.eval_windows))

    def prompt(self) -> str | list[int]:
        """What samples continue."""
        return self.options.sample_prompt

    def learned(self, learner: Learner) -> tuple[str, Mapping[str, Tensor], Mapping[str, Content]]:
        """What a checkpoint holds of what was learned: a file's name, its tensors, and more files."""
        return WEIGHTS, weights(learner.model), {}

    def load_weights(self, learner: Learner, folder: Path) -> None:
        """Give the model what a checkpoint holds."""
        set_weights(learner.model, read_tensors(folder / WEIGHTS), str(folder / WEIGHTS), learner.own)

    def after_save(self) -> None:
        """Called when a checkpoint is complete."""


@dataclass(frozen=True)
class Base:
    """The model that is trained further, and the hash that recognises it."""

    path: str
    fingerprint: str


@dataclass(frozen=True)
class FinetuneRun(Run):
    """A run that trains a model further, or an adapter on it. `config` is the base's."""

    data: FinetuneDataSummary
    base: Base
    tuning: FinetuneOptions
    verb: ClassVar[str] = "finetune"

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return self.tuning.context_length or self.config.context_length

    @property
    def capacity(self) -> int | None:
        """Tokens of a row that examples share; None: each example has its own."""
        return self.length if self.tuning.pack else None

    def examples(self, part: str) -> ExampleFile:
        return ExampleFile(self.folder / "data" / part, self.tokenizer.vocab_size)

    def settings(self) -> dict[str, Any]:
        return {"base": plain(self.base), "finetune": plain(self.tuning), **super().settings()}

    def start(self, world: World = ALONE) -> Session:
        new = [self.tokenizer.special.names[text] for text in dict.fromkeys(self.tuning.add_token)]
        return Session.tune(open_model(self.base.path), self.options, self.tuning, self.config.vocab_size, new, world)

    def batches(self) -> loop.Batches:
        if self.data.records:
            return ExampleBatches(self.examples("train"), self.options.batch_size, self.options.seed, self.capacity)
        return self.windows(self.length)

    def validation(self) -> Sequence[Tensor | Batch]:
        count, size = self.options.eval_windows, self.options.micro_batch_size or self.options.batch_size
        if self.data.records:
            return list(eval_rows(self.examples("val"), count, size, self.capacity))
        return list(eval_windows(self.tokens("val"), self.length, count, size))

    @property
    def asks(self) -> bool:
        """Whether samples answer a question, and do not continue a text."""
        return self.tuning.ask is not None or (self.data.records and not self.options.sample_prompt)

    def prompt(self) -> str | list[int]:
        """The question of `ask`, sample_prompt, the first validation question, or the first tokens of the text."""
        if self.tuning.ask is not None:
            return question_ids(self.tuning.ask, self.tokenizer, self.data.chat)
        if self.options.sample_prompt:
            return self.options.sample_prompt
        if not self.data.records:
            return [int(token) for token in self.tokens("val")[:OPENING]]
        ids, answer = self.first_example()
        return ids[: answer if answer > 1 else OPENING]

    def expected(self) -> str | None:
        """The answer that the data have to the question of the samples, where it is from the validation data."""
        if self.tuning.ask is not None or self.options.sample_prompt or not self.data.records:
            return None
        ids, answer = self.first_example()
        if answer <= 1:
            return None
        ends, special = {*self.tokenizer.special.end_ids, self.tokenizer.eos}, self.tokenizer.added_ids
        said = takewhile(lambda id: id not in ends, ids[answer:])
        return self.tokenizer.decode([id for id in said if id not in special])

    def first_example(self) -> tuple[list[int], int]:
        """The tokens of the first validation example, and where its answer begins."""
        first = self.examples("val")[0]
        return [int(token) for token in first.ids], int(first.trained.argmax())

    def learned(self, learner: Learner) -> tuple[str, Mapping[str, Tensor], Mapping[str, Content]]:
        if not self.tuning.adapted:
            return super().learned(learner)
        model, adapted = learner.model, lora.wrapped(learner.model)
        ends = [part for name, part in adapted.items() if name in ("embed", "unembed")]  # saved whole with new tokens
        with learner.assembled([*ends, *(part.adapters for part in adapted.values())]), TemporaryDirectory() as folder:
            peft.save(model, folder, base=self.base.path)
            files = {name: (Path(folder) / name).read_bytes() for name in peft.FILES}
            return TRAINED, lora.state_dict(model), files

    def load_weights(self, learner: Learner, folder: Path) -> None:
        if not self.tuning.adapted:
            super().load_weights(learner, folder)
            return
        saved, adapter = read_tensors(folder / TRAINED), lora.state_dict(learner.model)
        if {name: x.shape for name, x in saved.items()} != {name: x.shape for name, x in adapter.items()}:
            raise FathomError(f"{folder / TRAINED} is of another adapter than this run's; start a new run")
        with torch.no_grad():
            for name, tensor in adapter.items():
                tensor.copy_(learner.own(saved[name], tensor))

    def after_save(self) -> None:
        """Copy the adapter of the best checkpoint, or else of the newest, to the run's folder."""
        if self.tuning.adapted:
            step = (best_step(self.checkpoints) or [max(checkpoint.steps(self.checkpoints))])[0]
            (self.folder / BEST).mkdir(exist_ok=True)
            for name, content in (tokenizer_files(self.tokenizer) if self.tuning.own_tokenizer else {}).items():
                (self.folder / BEST / name).parent.mkdir(exist_ok=True)
                with atomic_write(self.folder / BEST / name) as new:
                    new.write_bytes(content)
            for name in peft.FILES:
                data = (self.checkpoints / f"step-{step:08d}" / name).read_bytes()
                with atomic_write(self.folder / BEST / name) as new:
                    new.write_bytes(data)


def recipe_of(config: ModelConfig, options: TrainOptions) -> Recipe:
    """A model and how it is trained, with every field."""
    return Recipe(model=plain(config), train=plain(options))


def open_run(folder: Path) -> Run:
    """The run of `fathom train` in a folder. FathomError where there is none or something in it is damaged."""
    _, common = read_run(folder, Run.verb)
    return Run(**common, data=read_summary(folder, DataSummary))


def open_finetune_run(folder: Path) -> FinetuneRun:
    """The run of `fathom finetune` in a folder. FathomError where there is none or something in it is damaged."""
    values, common = read_run(folder, FinetuneRun.verb)
    where = str(folder / CONFIG)
    base = build(Base, values.get("base") or {}, f"{where}: base")
    tuning = build(FinetuneOptions, values["finetune"], f"{where}: finetune")
    return FinetuneRun(**common, data=read_summary(folder, FinetuneDataSummary), base=base, tuning=tuning)


def read_run(folder: Path, verb: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What config.yaml holds, and the fields that every Run has. FathomError where it is not a run of this verb."""
    path = folder / CONFIG
    if not path.is_file():
        raise FathomError(f"{folder} holds no run: it has no {CONFIG}; start one: fathom {verb} --out-dir {folder}")
    values = read_config(path)
    actual = FinetuneRun.verb if "finetune" in values else Run.verb
    if actual != verb:
        resume = f"fathom {actual} --resume --out-dir {folder}"
        raise FathomError(f"{folder} is a run of fathom {actual}, not of fathom {verb}; continue it: {resume}")
    tokenizer = tokenizers.load(folder / tokenizers.FILE)
    recipe = Recipe(model=values.get("model") or {}, train=values.get("train") or {})
    config, options = recipe.config(tokenizer.vocab_size, f"{path}: model"), recipe.options(f"{path}: train")
    preset = str(values.get("preset") or "")
    return values, {
        "folder": folder, "config": config, "options": options, "tokenizer": tokenizer, "preset": preset
    }  # fmt: skip


S = TypeVar("S", bound=DataSummary)


def read_summary(folder: Path, kind: type[S]) -> S:
    path = folder / DATA_SUMMARY
    try:
        return build(kind, json.loads(path.read_text()), str(path))
    except (OSError, ValueError) as error:
        raise FathomError(f"{path} cannot be read: {error}; the run is incomplete, start a new one") from None


def write_run(run: Run) -> None:
    """Everything in the folder of a new run but its data."""
    tokenizers.save(run.tokenizer, run.folder / tokenizers.FILE)
    (run.folder / DATA_SUMMARY).write_text(json.dumps(asdict(run.data), indent=1))
    write_config(run.folder / CONFIG, run.settings())


@contextmanager
def created(recipe: Recipe, folder: Path, overwrite: bool, report: Report) -> Iterator[Run]:
    """A new run with its text tokenised, beside its place. It moves to `folder` when the block has succeeded.

    FathomError, with nothing changed on disk, where that cannot be; an error in the block changes nothing either.
    """
    require_replaceable(folder, overwrite)
    options = recipe.options()
    pick_device(options.device)  # one that is not here is refused before anything is written
    shards = open_shards(options.data) if is_prepared(options.data) else None
    corpus = Corpus(options.data, ()) if shards else resolve(options.data)
    if shards:
        recipe = recipe.changed({}, {"tokenizer": str(shards.folder / tokenizers.FILE)})
        options = recipe.options()
    with replacing_folder(folder) as new:
        (new / "data").mkdir()
        tokenizer = tokenizers.make(options.tokenizer, read_chunks(corpus, report))
        config = recipe.config(tokenizer.vocab_size).resolved()
        tokenizer.encode(uniform(options.sample_prompt))
        length = config.context_length
        if shards:
            data = summarise_shards(shards, tokenizer, length, options.tokenizer)
        else:
            data = prepare_text(
                new / "data", tokenizer, corpus, held_out(options.data, report), options.val_fraction, length, report
            )
        run = Run(new, config, options, tokenizer, data, preset=recipe.preset)
        write_run(run)
        yield run


def require_replaceable(folder: Path, overwrite: bool) -> None:
    """FathomError unless a new run may take this place."""
    if folder.exists() and not folder.is_dir():
        raise FathomError(f"{folder} is a file; give --out-dir a folder that does not exist yet")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise FathomError(
            f"{folder} exists; resume it with --resume, replace it with --overwrite, or choose another --out-dir"
        )
    if not (folder / CONFIG).is_file():
        raise FathomError(
            f"{folder} holds no run ({CONFIG} is missing), so it is not overwritten; choose another --out-dir"
        )
