"""A file of records as examples to learn from: what is cut, what is dropped, what is held back for validation.

An example that is too long is cut at its end; one of which nothing is learned then is dropped. Both are counted. Does
not know models or how examples become batches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fathom.data.examples import Short, rendered, short
from fathom.data.records import Dialogue, Instructions
from fathom.errors import FathomError
from fathom.tokenizer.protocol import Tokenizer
from fathom.tokenizer.template import template_for, template_origin

RECORDS = (".json", ".jsonl", ".ndjson", ".json-lines")  # of other files the text itself is learned
SUMMED = 1000  # records between two reports


@dataclass(frozen=True)
class Encoded:
    """The examples of a file, and what became of the rest."""

    about: str
    examples: tuple[Short, ...]
    n_cut: int
    n_dropped: int


def holds_records(data: str) -> bool:
    """Whether the data are records, and not plain text, by what the file is called."""
    return Path(data).suffix.lower() in RECORDS


def encode(
    path: Path, tokenizer: Tokenizer, length: int, whole: bool, told: Callable[[int], None] = lambda done: None
) -> Encoded:
    """The examples of a file of records, each at most `length` tokens; `whole`: the questions are learned too.

    FathomError names file and record where one cannot be said, and where nothing is left to learn.
    """
    records, found, n_cut, n_dropped = Instructions(path), list[Short](), 0, 0
    template = ""
    for number, record in enumerate(records, 1):
        try:
            example = rendered(record, tokenizer)
        except FathomError as problem:
            raise FathomError(f"{path}, record {number}: {problem}") from None
        if isinstance(record, Dialogue) and not template:
            template = f"; chat template: {template_origin(template_for(tokenizer))}"
        made = short(example, number, length, tokenizer.vocab_size, whole)
        n_cut += len(example.ids) > length
        n_dropped += not made.n_trained
        found += [made] if made.n_trained else []
        if number % SUMMED == 0:
            told(number)
    if not found:
        raise FathomError(
            f"{path}: of {n_dropped:,} records nothing is left to learn in the first {length:,} tokens of each; raise"
            " --block-size or give other records"
        )
    return Encoded(f"{records.kind.about}{template}", tuple(found), n_cut, n_dropped)


def split(examples: Sequence[Short], fraction: float, seed: int) -> tuple[list[Short], list[Short]]:
    """(to learn from, to validate on): that part of the examples, drawn at random, at least one of each."""
    if len(examples) < 2:
        raise FathomError("there is 1 example, which cannot be split; give more, or others with --val-data")
    n_val = min(max(1, round(len(examples) * fraction)), len(examples) - 1)
    held = set(np.random.default_rng([seed, len(examples)]).permutation(len(examples))[:n_val].tolist())
    parts: tuple[list[Short], list[Short]] = ([], [])
    for place, example in enumerate(examples):
        parts[place in held].append(example)
    return parts


def n_shared(train: Sequence[Short], val: Sequence[Short]) -> int:
    """How many of the validation examples are learned too, word for word."""
    known = {example.ids.tobytes() for example in train}
    return sum(example.ids.tobytes() in known for example in val)
