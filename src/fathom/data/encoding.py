"""The examples of whole files, as arrays: cut to a length, counted, split into training and validation.

An example that is too long is truncated; one of which nothing is learned then is dropped. A bad record stops the
reading, or is skipped and counted; where more than one in twenty is, something else is wrong.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fathom.data.dialogues import Dialogue
from fathom.data.examples import Example, to_example
from fathom.data.record_files import Entry
from fathom.data.records import Record, RecordFile, unused_fields
from fathom.errors import FathomError
from fathom.tokenizer.protocol import TokenArray, Tokenizer, id_dtype
from fathom.tokenizer.template import template_for, template_origin

OnBadRecord = Literal["stop", "skip"]
REPORT_EVERY = 1000  # records
NAMED = 3  # skipped records that are named
MAX_SKIPPED = 0.05  # of all records


@dataclass(frozen=True)
class TrainingExample:
    """An example as arrays, without roles. `number` is that of its record in the file, from 1."""

    ids: TokenArray  # (n,)
    trained: NDArray[np.uint8]  # (n,)
    number: int

    @property
    def n_trained(self) -> int:
        """Tokens that are predicted and learned; nothing predicts the first."""
        return int(self.trained[1:].sum())


@dataclass(frozen=True)
class EncodedFile:
    """The examples of a file, and how many records were truncated, dropped or skipped."""

    description: str
    examples: tuple[TrainingExample, ...]
    n_truncated: int
    n_dropped: int
    chat: bool  # whether the records are conversations, in the tokenizer's chat template
    n_skipped: int = 0
    notes: tuple[str, ...] = ()  # what was skipped, and which fields are not used


class Reader:
    """The records of files and their examples, with a count of what was skipped and what is not used."""

    def __init__(self, paths: Sequence[Path], tokenizer: Tokenizer, on_bad: OnBadRecord, train_all: bool) -> None:
        self.records = RecordFile(*paths, skip=on_bad == "skip")
        self.tokenizer, self.on_bad, self.train_all = tokenizer, on_bad, train_all
        self.skipped, self.unused, self.n_records, self.template = list[str](), Counter[str](), 0, ""

    @property
    def description(self) -> str:
        """What the records are and how they become text, in words."""
        return f"{self.records.kind.description}{self.template}"

    def read(self, entry: Entry) -> Example | None:
        """The example of a record; None: it was skipped. FathomError begins with file and record."""
        self.n_records += 1
        try:
            record = self.records.build(entry)
            return self.encoded(record, entry.where)
        except FathomError as problem:
            if self.on_bad == "stop":
                raise
            self.skipped.append(str(problem))
            return None

    def encoded(self, record: Record, where: str) -> Example:
        try:
            example = to_example(record, self.tokenizer, self.train_all)
        except FathomError as problem:
            raise FathomError(f"{where}: {problem}") from None
        self.unused.update({*example.unused} - self.records.latest)  # of a record's fields, those of its messages
        if isinstance(record, Dialogue) and not self.template:
            self.template = f"; chat template: {template_origin(template_for(self.tokenizer))}"
        return example

    def said(self) -> tuple[str, ...]:
        """What was skipped so far and what is not used, one line each."""
        unused = unused_fields(self.records.unused + self.unused, self.n_records)
        skipped = f"skipped: {self.in_words()}" if self.skipped else ""
        return tuple(filter(None, [skipped, unused]))

    def in_words(self) -> str:
        """How many records were skipped, and why the first of them."""
        first, count = "; ".join(self.skipped[:NAMED]), len(self.skipped)
        return f"{count:,} of {self.n_records:,} records cannot be used: {first}{'; ...' * (count > NAMED)}"

    def check(self) -> None:
        """FathomError: too many were skipped."""
        if len(self.skipped) > MAX_SKIPPED * self.n_records:
            raise FathomError(f"{self.in_words()}; expected at most {MAX_SKIPPED:.0%}: correct the data first")


def encode_file(
    paths: Sequence[Path],
    tokenizer: Tokenizer,
    length: int,
    train_all: bool,
    progress: Callable[[int], None] = lambda n_records: None,
    on_bad: OnBadRecord = "stop",
) -> EncodedFile:
    """The examples of files of records, each at most `length` tokens; `train_all`: the questions are learned too.

    FathomError names file and record where one cannot be encoded, where more are skipped than MAX_SKIPPED, and where
    nothing is left to learn.
    """
    reader = Reader(paths, tokenizer, on_bad, train_all)
    examples, n_truncated, n_dropped = list[TrainingExample](), 0, 0
    for number, entry in enumerate(reader.records.entries(), 1):
        whole = reader.read(entry)
        if whole is not None:
            ids = np.array(whole.ids[:length], id_dtype(tokenizer.vocab_size))
            example = TrainingExample(ids, np.array(whole.trained[:length], np.uint8), number)
            n_truncated += len(whole.ids) > length
            n_dropped += not example.n_trained
            examples += [example] if example.n_trained else []
        if number % REPORT_EVERY == 0:
            progress(number)
    reader.check()
    if not examples:
        raise FathomError(
            f"{paths[0]}: of {n_dropped:,} records nothing is left to learn in the first {length:,} tokens of each;"
            " raise --context-length or give other records"
        )
    return EncodedFile(
        reader.description,
        tuple(examples),
        n_truncated,
        n_dropped,
        chat=bool(reader.template),
        n_skipped=len(reader.skipped),
        notes=reader.said(),
    )


def split_examples(
    examples: Sequence[TrainingExample], fraction: float, seed: int
) -> tuple[list[TrainingExample], list[TrainingExample]]:
    """(training, validation): that fraction of the examples, drawn at random, is held back; at least one of each."""
    if len(examples) < 2:
        raise FathomError("there is 1 example, which cannot be split; give more, or others with --val-data")
    n_val = min(max(1, round(len(examples) * fraction)), len(examples) - 1)
    held_back = set(np.random.default_rng([seed, len(examples)]).permutation(len(examples))[:n_val].tolist())
    parts: tuple[list[TrainingExample], list[TrainingExample]] = ([], [])
    for place, example in enumerate(examples):
        parts[place in held_back].append(example)
    return parts


def count_shared(train: Sequence[TrainingExample], val: Sequence[TrainingExample]) -> int:
    """How many of the validation examples are training examples too, token for token."""
    known = {example.ids.tobytes() for example in train}
    return sum(example.ids.tobytes() in known for example in val)
