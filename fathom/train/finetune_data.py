"""The data of a fine-tuning run, made ready once: records as examples, or text as tokens to take windows from.

What is held back for validation comes from the same data, or is data of its own. Does not know the model but for how
many tokens it reads at once.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fathom.data.batches import refuse_short
from fathom.data.corpus import resolve
from fathom.data.encoding import Encoded, encode, holds_records, n_shared, split
from fathom.data.example_file import ExampleFile, Short, write_examples
from fathom.data.packing import rows_of
from fathom.data.prepare import VAL, text_size
from fathom.data.token_file import open_tokens
from fathom.errors import FathomError
from fathom.tokenizer.protocol import Tokenizer
from fathom.train.events import Prepared, Report
from fathom.train.finetune_options import FinetuneOptions
from fathom.train.finetune_run import TunedFacts
from fathom.train.options import TrainOptions
from fathom.train.run import write_tokens

NOTHING = 1e-9  # a part of a text that is none of it


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
    fraction = options.val_fraction if tuning.val_data is None else NOTHING
    facts = write_tokens(resolve(options.data), tokenizer, folder, fraction, report)
    if tuning.val_data is not None:
        (other := folder / "other").mkdir()
        second = write_tokens(resolve(tuning.val_data), tokenizer, other, 1 - NOTHING, report)
        (other / VAL).replace(folder / VAL)
        facts = facts.__class__(**{**vars(facts), **{k: getattr(second, k) for k in ("n_val", *SPELLED)}})
    counts = []
    for part in ("train", "val"):
        tokens = open_tokens(folder / f"{part}.npy", tokenizer.vocab_size)
        refuse_short(tokens, length, f"the {'training' if part == 'train' else 'validation'} text")
        counts.append((len(tokens) - 1) // length)
    return TunedFacts(**vars(facts), kind=f"text, in windows of {length} tokens", records=False,
                      n_train_rows=counts[0], n_val_rows=counts[1])  # fmt: skip


SPELLED = ("val_characters", "val_bytes")


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


def learned(examples: Sequence[Short]) -> np.ndarray[tuple[int], np.dtype[np.unsignedinteger]]:
    """The tokens of the examples that are predicted and learned, one after another."""
    return np.concatenate([example.ids[1:][example.trained[1:] > 0] for example in examples])
