"""The data of a fine-tuning run, made ready once: records as examples, or text as tokens to take windows from.

What is held back for validation comes from the same data, or is data of its own. Does not know the model but for how
many tokens it reads at once.
"""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fathom.data.batches import refuse_short
from fathom.data.corpus import resolve
from fathom.data.encoding import Encoded, encode, holds_records, n_shared, split
from fathom.data.example_file import ExampleFile, Short, write_examples
from fathom.data.packing import rows_of
from fathom.data.prepare import TRAIN, VAL, text_size, tokenize
from fathom.data.token_file import open_tokens
from fathom.errors import FathomError
from fathom.tokenizer.protocol import TokenArray, Tokenizer
from fathom.train.events import Prepared, Report
from fathom.train.finetune_options import FinetuneOptions
from fathom.train.finetune_run import TunedFacts
from fathom.train.options import TrainOptions


def prepare(
    folder: Path, tokenizer: Tokenizer, options: TrainOptions, tuning: FinetuneOptions, length: int, report: Report
) -> TunedFacts:
    """Fill a new folder with the data of a run whose rows hold `length` tokens. FathomError names file and record."""
    folder.mkdir()
    if tuning.val_data is not None and holds_records(options.data) != holds_records(tuning.val_data):
        raise FathomError(f"{options.data} and {tuning.val_data}: records and plain text; expected two of a kind")
    if holds_records(options.data):
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

    def told(done: int, total: int) -> None:
        report(Prepared("bytes tokenised", done, total))

    tokenize(corpus, tokenizer, folder, options.val_fraction if tuning.val_data is None else 0.0, told)
    if tuning.val_data is not None:
        tokenize(resolve(tuning.val_data), tokenizer, folder / "other", 0.0, told)
        (folder / "other" / TRAIN).replace(folder / VAL)
        shutil.rmtree(folder / "other")
    train, val = (read_part(folder, part, known, length) for part in ("train", "val"))
    characters, n_bytes = text_size(val, tokenizer)
    rows = [(len(tokens) - 1) // length for tokens in (train, val)]
    kind = f"text, in windows of {length} tokens"
    return TunedFacts(corpus.name, corpus.fingerprint(), len(train), len(val), characters, n_bytes, kind, False, *rows)


def read_part(folder: Path, part: str, vocab_size: int, length: int) -> TokenArray:
    tokens = open_tokens(folder / f"{part}.npy", vocab_size)
    refuse_short(tokens, length, f"the {'training' if part == 'train' else 'validation'} text")
    return tokens


def prepare_records(
    folder: Path, tokenizer: Tokenizer, options: TrainOptions, tuning: FinetuneOptions, length: int, report: Report
) -> TunedFacts:
    """Examples of at most `length` tokens that are read, and one more that is only predicted."""
    found = read(options.data, tokenizer, tuning, length, report)
    if tuning.val_data is None:
        train, val = split(found.examples, options.val_fraction, options.seed)
    else:
        other = read(tuning.val_data, tokenizer, tuning, length, report)
        train, val = list(found.examples), list(other.examples)
        found = Encoded(found.about, found.examples, found.n_cut + other.n_cut, found.n_dropped + other.n_dropped)
    for part, examples in (("train", train), ("val", val)):
        write_examples(folder / part, examples, tokenizer.vocab_size)
    rows = [rows_of(ExampleFile(folder / part, tokenizer.vocab_size), length if tuning.pack else None)
            for part in ("train", "val")]  # fmt: skip
    characters, n_bytes = text_size(learned(val), tokenizer)
    return TunedFacts(
        corpus=options.data,
        fingerprint=hashlib.sha256(Path(options.data).read_bytes()).hexdigest(),
        n_train=sum(example.n_trained for example in train),
        n_val=sum(example.n_trained for example in val),
        val_characters=max(characters, 1),
        val_bytes=max(n_bytes, 1),
        kind=found.about,
        records=True,
        n_train_rows=len(rows[0]),
        n_val_rows=len(rows[1]),
        n_examples=len(train) + len(val),
        n_cut=found.n_cut,
        n_dropped=found.n_dropped,
        n_shared=n_shared(train, val),
    )


def read(data: str, tokenizer: Tokenizer, tuning: FinetuneOptions, length: int, report: Report) -> Encoded:
    def told(done: int) -> None:
        report(Prepared("records tokenised", done, done))

    return encode(Path(data), tokenizer, length + 1, not tuning.mask_prompt, told)


def learned(examples: Sequence[Short]) -> TokenArray:
    """The tokens of the examples that are predicted and learned, one after another."""
    return np.concatenate([example.ids[1:][example.trained[1:] > 0] for example in examples])
