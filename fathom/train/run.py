"""The folder of a run: what it was told, the text as tokens, what it measured, and its checkpoints.

    config.yaml  tokenizer.json  data/{train,val}.npy  facts.json  metrics.jsonl  loss.png  loss.svg  checkpoints/

A folder is filled beside its place and renamed into it, so that a bad input leaves nothing behind. Does not train.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fathom.data.batches import Batch, Batches, check_length, eval_windows
from fathom.data.corpus import Corpus, resolve
from fathom.data.token_file import open_tokens, text_size, tokenize
from fathom.errors import FathomError
from fathom.fields import build
from fathom.files import sync
from fathom.formats.checkpoint import Content
from fathom.formats.config_file import CONFIG, read_config, write_config
from fathom.formats.run import WEIGHTS, place, read_weights, write_weights
from fathom.machine import pick_device
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from fathom.tokenizer import load as tokenizers
from fathom.tokenizer.protocol import TokenArray, Tokenizer
from fathom.train import loop
from fathom.train.events import Prepared, Report
from fathom.train.options import TrainOptions
from fathom.train.presets import Recipe

FACTS, METRICS, CHECKPOINTS = "facts.json", "metrics.jsonl", "checkpoints"


@dataclass(frozen=True)
class Facts:
    """What the text is: measured once, when the run is made."""

    corpus: str
    fingerprint: str
    n_train: int
    n_val: int
    val_characters: int
    val_bytes: int


@dataclass(frozen=True)
class Run:
    """An existing run folder."""

    folder: Path
    config: ModelConfig
    options: TrainOptions
    tokenizer: Tokenizer
    facts: Facts

    @property
    def checkpoints(self) -> Path:
        return self.folder / CHECKPOINTS

    def tokens(self, part: str) -> TokenArray:
        """The token ids of "train" or "val", memory-mapped."""
        return open_tokens(self.folder / "data" / f"{part}.npy", self.tokenizer.vocab_size)

    def plain(self) -> dict[str, Any]:
        """What config.yaml holds."""
        return recipe_of(self.config, self.options).plain()

    def batches(self) -> loop.Batches:
        """What is learned from, step by step."""
        return Batches(self.tokens("train"), self.config.context_length, self.options.batch_size, self.options.seed)

    def validation(self) -> Sequence[Tensor | Batch]:
        """What the loss is measured on."""
        return list(eval_windows(self.tokens("val"), self.config.context_length, self.options.eval_windows))

    def prompt(self) -> str | list[int]:
        """What samples go on from."""
        return self.options.sample_prompt

    def contents(self, model: Transformer) -> Mapping[str, Content]:
        """The files of a checkpoint that hold what was learned."""
        return {WEIGHTS: lambda path: write_weights(model, path)}

    def put_back(self, model: Transformer, folder: Path) -> None:
        """Give the model what a checkpoint holds."""
        place(model, read_weights(folder / WEIGHTS), str(folder / WEIGHTS))

    def saved(self) -> None:
        """Called when a checkpoint is in its place."""


def recipe_of(config: ModelConfig, options: TrainOptions) -> Recipe:
    """A model and how it is trained as the plain values that YAML holds."""
    return Recipe(model=_changed(asdict(config)), train=_changed(asdict(options)))


def _changed(values: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


@contextmanager
def created(recipe: Recipe, folder: Path, overwrite: bool, report: Report) -> Iterator[Run]:
    """A new run with its text tokenised, beside its place. It moves to `folder` when the block has succeeded.

    FathomError, with nothing changed on disk, where that cannot be; an error in the block changes nothing either.
    """
    refuse_existing(folder, overwrite)
    options = recipe.options()
    pick_device(options.device)  # one that is not here is refused before anything is made
    corpus = resolve(options.data)
    with placed(folder) as new:
        (new / "data").mkdir()
        tokenizer = tokenizers.make(options.tokenizer, read(corpus, report))
        config = recipe.config(tokenizer.vocab_size).resolved()
        tokenizer.encode(options.sample_prompt)
        facts = write_tokens(corpus, tokenizer, new / "data", options.val_fraction, report)
        tokenizers.save(tokenizer, new / tokenizers.FILE)
        (new / FACTS).write_text(json.dumps(asdict(facts), indent=1))
        run = Run(new, config, options, tokenizer, facts)
        for part, what in (("train", "training"), ("val", "validation")):
            check_length(run.tokens(part), config.context_length, f"the {what} part of {corpus.name}")
        write_config(new / CONFIG, run.plain())
        yield run


def read(corpus: Corpus, report: Report) -> Iterator[str]:
    """The text in chunks, while it is said how much has been read."""
    done = 0
    for chunk in corpus.chunks():
        yield chunk
        done += len(chunk.encode("utf-8"))
        report(Prepared("bytes read", min(done, corpus.size), corpus.size))


def write_tokens(corpus: Corpus, tokenizer: Tokenizer, folder: Path, val_fraction: float, report: Report) -> Facts:
    """The corpus as train.npy and val.npy, and what it is."""

    def told(done: int, total: int) -> None:
        report(Prepared("bytes tokenised", done, total))

    done = tokenize(corpus, tokenizer, folder, val_fraction, told)
    characters, n_bytes = text_size(open_tokens(done.val, tokenizer.vocab_size), tokenizer)
    return Facts(corpus.name, corpus.fingerprint(), done.n_train, done.n_val, characters, n_bytes)


def open_run(folder: Path) -> Run:
    """The run in a folder. FathomError where it is none or something in it is damaged."""
    if not (folder / CONFIG).is_file():
        raise FathomError(
            f"{folder} holds no run: it has no {CONFIG}; train one with `fathom train --out-dir {folder}`"
        )
    values = read_config(folder / CONFIG)
    if "finetune" in values:
        raise FathomError(f"{folder} is a run of fine-tuning; go on with `fathom finetune --resume --out-dir {folder}`")
    recipe = Recipe(model=values.get("model") or {}, train=values.get("train") or {})
    tokenizer = tokenizers.load(folder / tokenizers.FILE)
    try:
        facts = build(Facts, json.loads((folder / FACTS).read_text()), str(folder / FACTS))
    except (OSError, ValueError) as error:
        raise FathomError(f"{folder / FACTS} cannot be read: {error}; the run is incomplete, train it anew") from None
    config = recipe.config(tokenizer.vocab_size, f"{folder / CONFIG}: model")
    return Run(folder, config, recipe.options(f"{folder / CONFIG}: train"), tokenizer, facts)


def refuse_existing(folder: Path, overwrite: bool) -> None:
    """FathomError where something stands in the way of a new run."""
    if folder.exists() and not folder.is_dir():
        raise FathomError(f"{folder} is a file; give --out-dir a folder that does not exist yet")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise FathomError(
            f"{folder} exists; go on with --resume, replace it with --overwrite, or choose another --out-dir"
        )
    if not (folder / CONFIG).is_file():
        raise FathomError(
            f"{folder} holds no run ({CONFIG} is missing), so it is not overwritten; choose another --out-dir"
        )


@contextmanager
def placed(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of `folder` when the block has succeeded, and is gone when it has not."""
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    new, old = (folder.with_name(f".{folder.name}.{word}") for word in ("new", "old"))
    if old.exists() and not folder.exists():  # a kill came between the two renames below
        old.rename(folder)
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    new.mkdir()
    try:
        yield new
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            old.rename(folder)
            raise
        sync(folder.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
