"""Examples on disk, and as rows of batches: one a row, or packed so that short ones share a row and none sees another.

Packed rows are formed once by best fit, the longest examples first (Krell et al. 2021). Which rows make up a step is a
pure function of seed and step.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fathom.data.batches import IGNORED, Batch, EpochOrder
from fathom.data.encoding import TrainingExample
from fathom.data.token_file import open_tokens, write_tokens
from fathom.errors import FathomError
from fathom.tokenizer.protocol import TokenArray, id_dtype

FIELDS = ("ids", "trained", "ends", "numbers")
Row = list[int]  # places of examples


class ExampleFile:
    """The examples in a folder, memory-mapped: to resume a run needs neither the file of records nor the tokenizer.

    ids.npy and trained.npy (0 or 1) of all tokens, ends.npy of each example, numbers.npy of its record, from 1.
    """

    def __init__(self, folder: Path, vocab_size: int) -> None:
        """FathomError where a file is missing or they do not fit together."""
        n_values = {"ids": vocab_size, "trained": 2, "ends": 1 << 62, "numbers": 1 << 62}
        self.folder = folder
        self.ids, self.trained, ends, self.numbers = (
            open_tokens(folder / f"{field}.npy", n_values[field]) for field in FIELDS
        )
        self.ends = np.concatenate([np.zeros(1, np.int64), ends.astype(np.int64)])  # (n + 1,)
        sizes = (len(self.trained), int(self.ends[-1]))
        if sizes != (len(self.ids),) * 2 or len(ends) != len(self.numbers) or (np.diff(self.ends) < 2).any():
            raise FathomError(f"{folder}: its files do not fit together; prepare the data again")

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> TrainingExample:
        part = slice(self.ends[place], self.ends[place + 1])
        return TrainingExample(self.ids[part], self.trained[part], int(self.numbers[place]))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) tokens of each."""
        return np.diff(self.ends)


def write_examples(folder: Path, examples: Sequence[TrainingExample], vocab_size: int) -> None:
    """Write them into a new folder."""
    folder.mkdir()
    fields: dict[str, tuple[list[TokenArray], Any]] = {
        "ids": ([example.ids for example in examples], id_dtype(vocab_size)),
        "trained": ([example.trained for example in examples], np.uint8),
        "ends": ([np.cumsum([len(example.ids) for example in examples], dtype=np.uint64)], np.uint64),
        "numbers": ([np.array([example.number for example in examples], np.uint64)], np.uint64),
    }
    for field, (arrays, dtype) in fields.items():
        write_tokens(folder / f"{field}.npy", arrays, np.dtype(dtype))


def pack(lengths: Sequence[int], capacity: int) -> list[Row]:
    """Rows of at most `capacity` tokens that hold all texts: each goes where the least space is left over."""
    rows: list[Row] = []
    free: list[tuple[int, int]] = []  # (free tokens, row), ascending
    for place in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fit = bisect_left(free, (lengths[place], -1))
        space, row = free.pop(fit) if fit < len(free) else (capacity, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(place)
        insort(free, (space - lengths[place], row))
    return rows


def pack_examples(examples: ExampleFile, capacity: int | None) -> list[Row]:
    """Rows of places, packed, or one for each example where capacity is None.

    The last token of an example is only predicted, not read: it takes no space.
    """
    return [[i] for i in range(len(examples))] if capacity is None else pack((examples.lengths - 1).tolist(), capacity)


class ExampleBatches:
    """The batches of a run that learns from examples. capacity: None gives each example a row of its own."""

    def __init__(self, examples: ExampleFile, batch_size: int, seed: int, capacity: int | None = None) -> None:
        if batch_size < 1 or not len(examples):
            raise FathomError(f"{len(examples)} examples in batches of {batch_size}; expected at least one of each")
        self.examples, self.batch_size = examples, batch_size
        self.rows = pack_examples(examples, capacity)
        self._order = EpochOrder(
            len(self.rows), lambda epoch: np.random.default_rng([seed, epoch]).permutation(len(self.rows))
        )

    def at(self, step: int) -> Batch:
        """The rows of a step, the longest first; a batch at the end of an epoch is filled from the next."""
        places = self._order.visits(step * self.batch_size, self.batch_size)
        return example_batch(self.examples, [self.rows[place] for place in places])


def eval_rows(examples: ExampleFile, count: int | None, batch_size: int, capacity: int | None) -> Iterator[Batch]:
    """The same batches every time: all rows or `count` of them, rows of similar length together."""
    rows = pack_examples(examples, capacity)
    if count is not None and count < len(rows):
        rows = [rows[i * len(rows) // count] for i in range(count)]
    rows.sort(key=lambda row: width(examples, row))
    for start in range(0, len(rows), batch_size):
        yield example_batch(examples, rows[start : start + batch_size])


def width(examples: ExampleFile, row: Row) -> int:
    """Tokens that a row reads."""
    return int(sum(examples.lengths[place] - 1 for place in row))


def example_batch(examples: ExampleFile, rows: Sequence[Row]) -> Batch:
    """Rows as tensors, the longest first, so that micro-batches hold little padding."""
    rows = sorted(rows, key=lambda row: -width(examples, row))
    shape = (len(rows), width(examples, rows[0]))
    ids, targets = np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64)
    documents, numbers = np.full(shape, -1, np.int64), list[int]()
    for line, row in enumerate(rows):
        start = 0
        for document, place in enumerate(row):
            example = examples[place]
            part = slice(start, start := start + len(example.ids) - 1)
            ids[line, part], documents[line, part] = example.ids[:-1], document
            targets[line, part] = np.where(example.trained[1:], example.ids[1:].astype(np.int64), IGNORED)
            numbers.append(example.number)
    name = f"records {', '.join(map(str, sorted(numbers)[:20]))}{', ...' * (len(numbers) > 20)}"
    return Batch(torch.from_numpy(ids), torch.from_numpy(targets), torch.from_numpy(documents), name)
