"""Preparing the data of a run, once: text as tokens to take windows from, or records as examples.

Validation data are the end of the text, a random part of the records, or data of their own.
"""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fathom.data.batches import check_length
from fathom.data.corpus import Corpus, resolve
from fathom.data.examples import TrainingExample, count_shared, encode_file, split_examples
from fathom.data.packing import ExampleFile, pack_examples, write_examples
from fathom.data.records import is_record_file
from fathom.data.token_file import TRAIN, VAL, open_tokens, text_size, tokenize
from fathom.errors import FathomError
from fathom.tokenizer.protocol import TokenArray, Tokenizer
from fathom.training.events import Prepared, Report
from fathom.training.options import FinetuneOptions, TrainOptions


@dataclass(frozen=True)
class DataSummary:
    """What the data of a run are, measured when it is created."""

    corpus: str
    fingerprint: str
    n_train: int  # tokens; of records those that are predicted and learned
    n_val: int
    val_characters: int  # that the n_val tokens spell
    val_bytes: int


@dataclass(frozen=True)
class FinetuneDataSummary(DataSummary):
    """And how they become rows."""

    kind: str  # what the data are, in words
    records: bool
    n_train_rows: int  # rows of an epoch
    n_val_rows: int
    n_examples: int = 0
    n_cut: int = 0
    n_dropped: int = 0
    n_shared: int = 0  # validation examples that are learned too
    chat: bool = False  # whether the records are conversations, in the tokenizer's chat template


def read_chunks(corpus: Corpus, report: Report) -> Iterator[str]:
    """The text in chunks; reports how many bytes have been read."""
    done = 0
    for chunk in corpus.chunks():
        yield chunk
        done += len(chunk.encode("utf-8"))
        report(Prepared("bytes read", min(done, corpus.size), corpus.size))


def prepare_text(
    folder: Path,
    tokenizer: Tokenizer,
    text: Corpus,
    other: Corpus | None,
    val_fraction: float,
    length: int,
    report: Report,
) -> DataSummary:
    """Write train.npy and val.npy into a folder. FathomError where one of them is shorter than a window of `length`.

    other: a text to validate on; None: the last `val_fraction` of the text.
    """

    def progress(done: int, total: int) -> None:
        report(Prepared("bytes tokenised", done, total))

    tokenize(text, tokenizer, folder, val_fraction if other is None else 0.0, progress)
    if other is not None:
        tokenize(other, tokenizer, folder / "val", 0.0, progress)
        (folder / "val" / TRAIN).replace(folder / VAL)
        shutil.rmtree(folder / "val")
    train, val = (open_tokens(folder / name, tokenizer.vocab_size) for name in (TRAIN, VAL))
    check_length(train, length, f"the training part of {text.name}")
    check_length(val, length, f"the validation part of {(other or text).name}")
    return DataSummary(text.name, text.fingerprint(), len(train), len(val), *text_size(val, tokenizer))


def prepare(
    folder: Path, tokenizer: Tokenizer, options: TrainOptions, tuning: FinetuneOptions, length: int, report: Report
) -> FinetuneDataSummary:
    """Fill a new folder with the data of a run whose rows hold `length` tokens. FathomError names file and record."""
    folder.mkdir()
    data, other = options.data, tuning.val_data
    if other is not None and is_record_file(data) != is_record_file(other):
        raise FathomError(f"{data} and {other}: records and plain text; expected two of a kind")
    if is_record_file(data):
        return prepare_records(folder, tokenizer, options, tuning, length, report)
    for name, given in (("pack", tuning.pack), ("no mask_prompt", not tuning.mask_prompt)):
        if given:
            raise FathomError(f"{name} was given, and {data} is text, all of which is learned; leave it out")
    val = None if other is None else resolve(other)
    text = prepare_text(folder, tokenizer, resolve(data), val, options.val_fraction, length, report)
    kind, n_rows = f"text, in windows of {length} tokens", [(n - 1) // length for n in (text.n_train, text.n_val)]
    return FinetuneDataSummary(**asdict(text), kind=kind, records=False, n_train_rows=n_rows[0], n_val_rows=n_rows[1])


def prepare_records(
    folder: Path, tokenizer: Tokenizer, options: TrainOptions, tuning: FinetuneOptions, length: int, report: Report
) -> FinetuneDataSummary:
    """Write examples of at most `length` tokens that are read, and one more that is only predicted."""

    def progress(done: int) -> None:
        report(Prepared("records tokenised", done, done))

    paths = [Path(data) for data in (options.data, tuning.val_data) if data is not None]
    files = [encode_file(path, tokenizer, length + 1, not tuning.mask_prompt, progress) for path in paths]
    if tuning.val_data is None:
        train, val = split_examples(files[0].examples, options.val_fraction, options.seed)
    else:
        train, val = (list(file.examples) for file in files)
    n_rows = []
    for part, examples in (("train", train), ("val", val)):
        write_examples(folder / part, examples, tokenizer.vocab_size)
        rows = pack_examples(ExampleFile(folder / part, tokenizer.vocab_size), length if tuning.pack else None)
        n_rows.append(len(rows))
    characters, n_bytes = text_size(learned_tokens(val), tokenizer)
    return FinetuneDataSummary(
        corpus=options.data,
        fingerprint=hashlib.sha256(paths[0].read_bytes()).hexdigest(),
        n_train=sum(example.n_trained for example in train),
        n_val=sum(example.n_trained for example in val),
        val_characters=max(characters, 1),
        val_bytes=max(n_bytes, 1),
        kind=files[0].description,
        records=True,
        n_train_rows=n_rows[0],
        n_val_rows=n_rows[1],
        n_examples=len(train) + len(val),
        n_cut=sum(file.n_truncated for file in files),
        n_dropped=sum(file.n_dropped for file in files),
        n_shared=count_shared(train, val),
        chat=files[0].chat,
    )


def learned_tokens(examples: Sequence[TrainingExample]) -> TokenArray:
    """The tokens of the examples that are predicted and learned, one after another."""
    return np.concatenate([example.ids[1:][example.trained[1:] > 0] for example in examples])
