"""The folder of a fine-tuning run: where its base lies, what is learned from, its checkpoints, and the best adapter.

    config.yaml  tokenizer.json  data/  facts.json  metrics.jsonl  loss.png  checkpoints/  adapter/

A checkpoint holds the adapter twice: `trained.safetensors` to go on from, to the bit, and as the two files of a PEFT
folder, so that each checkpoint is one. Where all weights are trained it holds the model as any run does.
"""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fathom.adapters import lora, peft
from fathom.adapters.peft_config import CONFIG as ADAPTER
from fathom.adapters.peft_tensors import WEIGHTS as ADAPTER_WEIGHTS
from fathom.data.batches import Batch, Batches, check_length, eval_windows
from fathom.data.corpus import resolve
from fathom.data.examples import EncodedFile, TrainingExample, count_shared, encode_file, split_examples
from fathom.data.packing import ExampleBatches, ExampleFile, eval_rows, pack_examples, write_examples
from fathom.data.records import is_record_file
from fathom.data.token_file import TRAIN, VAL, open_tokens, text_size, tokenize
from fathom.errors import FathomError
from fathom.files import atomic_write
from fathom.formats import checkpoint
from fathom.formats.checkpoint import Content
from fathom.formats.run import best_step, read_weights
from fathom.formats.safetensors_file import write_tensors
from fathom.model.transformer import Transformer
from fathom.tokenizer.protocol import TokenArray, Tokenizer
from fathom.train import loop
from fathom.train.events import Prepared, Report
from fathom.train.options import FinetuneOptions, TrainOptions
from fathom.train.run import Facts, Run

TRAINED, BEST = "trained.safetensors", "adapter"
OPENING = 8  # tokens that a sample goes on from where no question stands before an answer


@dataclass(frozen=True)
class TunedFacts(Facts):
    """Of records: n_train and n_val are the tokens that are learned, and the characters and bytes are theirs."""

    kind: str  # what the data are, in words
    records: bool
    n_train_rows: int  # rows of an epoch
    n_val_rows: int
    n_examples: int = 0
    n_cut: int = 0
    n_dropped: int = 0
    n_shared: int = 0  # validation examples that are learned too


@dataclass(frozen=True)
class Base:
    """The model that is trained further, and the hash by which it is known again."""

    path: str
    fingerprint: str


@dataclass(frozen=True)
class TunedRun(Run):
    """A run folder whose model began as another. `config` is the base's; `length` the tokens of a row."""

    facts: TunedFacts
    base: Base
    tuning: FinetuneOptions
    length: int

    @property
    def adapted(self) -> bool:
        """Whether an adapter is trained, and not all weights."""
        return self.tuning.method != "full"

    @property
    def capacity(self) -> int | None:
        """Tokens that share a row; None: each example has its own."""
        return self.length if self.tuning.pack else None

    def examples(self, part: str) -> ExampleFile:
        return ExampleFile(self.folder / "data" / part, self.tokenizer.vocab_size)

    def batches(self) -> loop.Batches:
        size, seed = self.options.batch_size, self.options.seed
        if self.facts.records:
            return ExampleBatches(self.examples("train"), size, seed, self.capacity)
        return Batches(self.tokens("train"), self.length, size, seed)

    def validation(self) -> Sequence[Tensor | Batch]:
        count, size = self.options.eval_windows, self.options.micro_batch_size or self.options.batch_size
        if self.facts.records:
            return list(eval_rows(self.examples("val"), count, size, self.capacity))
        return list(eval_windows(self.tokens("val"), self.length, count, size))

    def prompt(self) -> str | list[int]:
        """What was asked for; else the first question that is validated on, or the text's first tokens."""
        if self.options.sample_prompt:
            return self.options.sample_prompt
        if not self.facts.records:
            return [int(token) for token in self.tokens("val")[:OPENING]]
        first = self.examples("val")[0]
        asked = int(first.trained.argmax())
        return [int(token) for token in first.ids[: asked if asked > 1 else OPENING]]

    def plain(self) -> dict[str, Any]:
        return {"base": asdict(self.base), "finetune": listed(self.tuning) | {"context_length": self.length},
                **super().plain()}  # fmt: skip

    def contents(self, model: Transformer) -> Mapping[str, Content]:
        if not self.adapted:
            return super().contents(model)
        with TemporaryDirectory() as folder:
            peft.save(model, folder, base=self.base.path)
            both = {name: (Path(folder) / name).read_bytes() for name in (ADAPTER, ADAPTER_WEIGHTS)}
        return {TRAINED: lambda path: write_tensors(path, lora.state_dict(model)), **both}

    def put_back(self, model: Transformer, folder: Path) -> None:
        if self.adapted:
            put_adapter(model, folder / TRAINED)
        else:
            super().put_back(model, folder)

    def saved(self) -> None:
        """Let the adapter of the best checkpoint, or else of the newest, lie beside the checkpoints."""
        if self.adapted:
            step = (best_step(self.checkpoints) or [max(checkpoint.steps(self.checkpoints))])[0]
            (self.folder / BEST).mkdir(exist_ok=True)
            for name in (ADAPTER_WEIGHTS, ADAPTER):
                data = (self.checkpoints / f"step-{step:08d}" / name).read_bytes()
                with atomic_write(self.folder / BEST / name) as new:
                    new.write_bytes(data)


def put_adapter(model: Transformer, path: Path) -> None:
    """Give the adapter these numbers, to the bit."""
    saved, here = read_weights(path), lora.state_dict(model)
    if {name: x.shape for name, x in saved.items()} != {name: x.shape for name, x in here.items()}:
        raise FathomError(f"{path} is of another adapter than this run's; train anew")
    with torch.no_grad():
        for name, tensor in here.items():
            tensor.copy_(saved[name])


def listed(options: FinetuneOptions) -> dict[str, Any]:
    """The options as YAML holds them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(options).items()}


# The data of a fine-tuning run, made ready once: records as examples, or text as tokens to take windows from.
#
# What is held back for validation comes from the same data, or is data of its own. Does not know the model but for
# how many tokens it reads at once.


def prepare(
    folder: Path, tokenizer: Tokenizer, options: TrainOptions, tuning: FinetuneOptions, length: int, report: Report
) -> TunedFacts:
    """Fill a new folder with the data of a run whose rows hold `length` tokens. FathomError names file and record."""
    folder.mkdir()
    if tuning.val_data is not None and is_record_file(options.data) != is_record_file(tuning.val_data):
        raise FathomError(f"{options.data} and {tuning.val_data}: records and plain text; expected two of a kind")
    if is_record_file(options.data):
        return prepare_records(folder, tokenizer, options, tuning, length, report)
    for name, given in (("pack", tuning.pack), ("no mask_prompt", not tuning.mask_prompt)):
        if given:
            raise FathomError(f"{name} was given, and {options.data} is text, all of which is learned; leave it out")
    return prepare_text(folder, tokenizer, options, tuning, length, report)


def prepare_text(
    folder: Path, tokenizer: Tokenizer, options: TrainOptions, tuning: FinetuneOptions, length: int, report: Report
) -> TunedFacts:
    """Tokens as `fathom train` reads them."""
    corpus, known = resolve(options.data), tokenizer.vocab_size

    def progress(done: int, total: int) -> None:
        report(Prepared("bytes tokenised", done, total))

    tokenize(corpus, tokenizer, folder, options.val_fraction if tuning.val_data is None else 0.0, progress)
    if tuning.val_data is not None:
        tokenize(resolve(tuning.val_data), tokenizer, folder / "other", 0.0, progress)
        (folder / "other" / TRAIN).replace(folder / VAL)
        shutil.rmtree(folder / "other")
    train, val = (read_part(folder, part, known, length) for part in ("train", "val"))
    characters, n_bytes = text_size(val, tokenizer)
    rows = [(len(tokens) - 1) // length for tokens in (train, val)]
    kind = f"text, in windows of {length} tokens"
    return TunedFacts(corpus.name, corpus.fingerprint(), len(train), len(val), characters, n_bytes, kind, False, *rows)


def read_part(folder: Path, part: str, vocab_size: int, length: int) -> TokenArray:
    tokens = open_tokens(folder / f"{part}.npy", vocab_size)
    check_length(tokens, length, f"the {'training' if part == 'train' else 'validation'} text")
    return tokens


def prepare_records(
    folder: Path, tokenizer: Tokenizer, options: TrainOptions, tuning: FinetuneOptions, length: int, report: Report
) -> TunedFacts:
    """Examples of at most `length` tokens that are read, and one more that is only predicted."""
    found = read(options.data, tokenizer, tuning, length, report)
    if tuning.val_data is None:
        train, val = split_examples(found.examples, options.val_fraction, options.seed)
    else:
        other = read(tuning.val_data, tokenizer, tuning, length, report)
        train, val = list(found.examples), list(other.examples)
        n_truncated, n_dropped = found.n_truncated + other.n_truncated, found.n_dropped + other.n_dropped
        found = EncodedFile(found.description, found.examples, n_truncated, n_dropped)
    for part, examples in (("train", train), ("val", val)):
        write_examples(folder / part, examples, tokenizer.vocab_size)
    rows = [pack_examples(ExampleFile(folder / part, tokenizer.vocab_size), length if tuning.pack else None)
            for part in ("train", "val")]  # fmt: skip
    characters, n_bytes = text_size(learned(val), tokenizer)
    return TunedFacts(
        corpus=options.data,
        fingerprint=hashlib.sha256(Path(options.data).read_bytes()).hexdigest(),
        n_train=sum(example.n_trained for example in train),
        n_val=sum(example.n_trained for example in val),
        val_characters=max(characters, 1),
        val_bytes=max(n_bytes, 1),
        kind=found.description,
        records=True,
        n_train_rows=len(rows[0]),
        n_val_rows=len(rows[1]),
        n_examples=len(train) + len(val),
        n_cut=found.n_truncated,
        n_dropped=found.n_dropped,
        n_shared=count_shared(train, val),
    )


def read(data: str, tokenizer: Tokenizer, tuning: FinetuneOptions, length: int, report: Report) -> EncodedFile:
    def progress(done: int) -> None:
        report(Prepared("records tokenised", done, done))

    return encode_file(Path(data), tokenizer, length + 1, not tuning.mask_prompt, progress)


def learned(examples: Sequence[TrainingExample]) -> TokenArray:
    """The tokens of the examples that are predicted and learned, one after another."""
    return np.concatenate([example.ids[1:][example.trained[1:] > 0] for example in examples])
