"""Preparing the data of a run, once: text as tokens to take windows from, or records as examples.

Validation data are the end of the text, a random part of the records, or data of their own.
"""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from fathom.data import record_files as files
from fathom.data import splits
from fathom.data.batches import check_length
from fathom.data.corpus import NAMED, TEXTS, Corpus, part_of, resolve
from fathom.data.encoding import TrainingExample, count_shared, encode_file, split_examples
from fathom.data.packing import ExampleFile, pack_examples, write_examples
from fathom.data.shards import Shards, is_prepared, open_shards
from fathom.data.token_file import TRAIN, VAL, open_tokens, text_size, tokenize
from fathom.errors import FathomError
from fathom.tokenizer.load import is_learned, make
from fathom.tokenizer.protocol import TokenArray, Tokenizer
from fathom.training.events import Note, Prepared, Report
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
    shards: str = field(default="", kw_only=True)  # the folder of prepared tokens; "": the run has its own

    def prepared(self) -> Shards:
        """The prepared tokens. FathomError: they are not those that the run began with."""
        shards = open_shards(self.shards)
        if shards.sha256 != self.fingerprint:
            raise FathomError(
                f"{self.shards} holds other tokens than those that this run began with; put those back, or begin"
                " another run: --out-dir"
            )
        return shards


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
    n_skipped: int = 0  # bad records
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


def summarise_shards(shards: Shards, tokenizer: Tokenizer, length: int, name: str) -> DataSummary:
    """What prepared tokens are, all of them read and compared with their sha256. name: whose the tokenizer is.

    FathomError: one is damaged, another tokenizer made them, or one text is shorter than a window of `length`.
    """
    shards.require(tokenizer, name)
    shards.verify()
    folder = str(shards.folder)
    val = shards.tokens("val")
    for tokens, _ in shards.streams():
        check_length(tokens, length, f"the training part of {folder}" if len(tokens) else f"a source of {folder}")
    if not len(val):
        raise FathomError(
            f"{folder}: no documents are held out for validation; prepare them again with a larger --val-fraction"
        )
    check_length(val, length, f"the validation part of {folder}")
    counts = (len(shards.tokens("train")), len(val), *text_size(val, tokenizer))
    return DataSummary(folder, shards.sha256, *counts, shards=str(shards.folder.absolute()))


def check_tokenizer(data: str, tokenizer: str) -> None:
    """FathomError: the data are prepared tokens, and made with another tokenizer than the one that was asked for."""
    if not is_prepared(data) or tokenizer == (shards := open_shards(data)).about.tokenizer:
        return
    if is_learned(tokenizer):
        raise FathomError(
            f"--tokenizer is {tokenizer}, and {data} was made with {shards.about.tokenizer}; leave it out, or prepare"
            " the data with it"
        )
    shards.require(make(tokenizer, ()), tokenizer)


def held_out(data: str, report: Report) -> Corpus | None:
    """The part of a folder of texts that is named for validation; which files are for what is reported."""
    if data not in NAMED and (parts := splits.in_words(Path(data), TEXTS)):
        report(Note(parts))
    return part_of(data, splits.VAL)


def prepare(
    folder: Path, tokenizer: Tokenizer, options: TrainOptions, tuning: FinetuneOptions, length: int, report: Report
) -> FinetuneDataSummary:
    """Fill a new folder with the data of a run whose rows hold `length` tokens. FathomError names file and record."""
    folder.mkdir()
    data, other = options.data, tuning.val_data
    if other is not None and files.is_record_file(data) != files.is_record_file(other):
        raise FathomError(f"{data} and {other}: records and plain text; expected two of the same kind")
    if is_prepared(data) and other is not None:
        raise FathomError(f"val_data was given, and {data} holds documents to validate on; leave it out")
    if files.is_record_file(data):
        return prepare_records(folder, tokenizer, options, tuning, length, report)
    for name, given in (("pack", tuning.pack), ("no mask_prompt", not tuning.mask_prompt)):
        if given:
            raise FathomError(f"{name} was given, and {data} is text, all of which is learned; leave it out")
    if is_prepared(data):
        text = summarise_shards(open_shards(data), tokenizer, length, "the model")
    else:
        val = held_out(data, report) if other is None else resolve(other)
        text = prepare_text(folder, tokenizer, resolve(data), val, options.val_fraction, length, report)
    kind, n_rows = f"text, in windows of {length} tokens", [(n - 1) // length for n in (text.n_train, text.n_val)]
    return FinetuneDataSummary(**asdict(text), kind=kind, records=False, n_train_rows=n_rows[0], n_val_rows=n_rows[1])


def prepare_records(
    folder: Path, tokenizer: Tokenizer, options: TrainOptions, tuning: FinetuneOptions, length: int, report: Report
) -> FinetuneDataSummary:
    """Write examples of at most `length` tokens that are read, and one more that is only predicted."""

    def progress(done: int) -> None:
        report(Prepared("records tokenised", done, done))

    sources = sources_of(options.data, tuning.val_data)
    encoded = [
        encode_file(paths, tokenizer, length + 1, not tuning.mask_prompt, progress, tuning.on_bad_record)
        for paths in sources
    ]
    for note in dict.fromkeys(note for part in encoded for note in part.notes):
        report(Note(note, warning=True))
    if len(encoded) == 1:
        train, val = split_examples(encoded[0].examples, options.val_fraction, options.seed)
    else:
        train, val = (list(part.examples) for part in encoded)
    n_rows = []
    for part, examples in (("train", train), ("val", val)):
        write_examples(folder / part, examples, tokenizer.vocab_size)
        rows = pack_examples(ExampleFile(folder / part, tokenizer.vocab_size), length if tuning.pack else None)
        n_rows.append(len(rows))
    characters, n_bytes = text_size(learned_tokens(val), tokenizer)
    return FinetuneDataSummary(
        corpus=options.data,
        fingerprint=fingerprint(sources[0]),
        n_train=sum(example.n_trained for example in train),
        n_val=sum(example.n_trained for example in val),
        val_characters=max(characters, 1),
        val_bytes=max(n_bytes, 1),
        kind=encoded[0].description,
        records=True,
        n_train_rows=n_rows[0],
        n_val_rows=n_rows[1],
        n_examples=len(train) + len(val),
        n_cut=sum(part.n_truncated for part in encoded),
        n_dropped=sum(part.n_dropped for part in encoded),
        n_skipped=sum(part.n_skipped for part in encoded),
        n_shared=count_shared(train, val),
        chat=encoded[0].chat,
    )


def sources_of(data: str, other: str | None) -> list[list[Path]]:
    """The files of records to learn from, and where there are any those to validate on: `other`, or a folder's own."""
    own = files.record_files(data, splits.VAL) if Path(data).is_dir() else []
    val = own if other is None else files.record_files(other, splits.VAL) or files.record_files(other)
    return [files.record_files(data), *([val] if val else [])]


def fingerprint(paths: Sequence[Path]) -> str:
    """The sha256 of files, one after another, as hex."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def learned_tokens(examples: Sequence[TrainingExample]) -> TokenArray:
    """The tokens of the examples that are predicted and learned, one after another."""
    return np.concatenate([example.ids[1:][example.trained[1:] > 0] for example in examples])
