"""Examples as rows of a batch: one a row, or packed so that short ones share a row and none sees another.

Which rows make up a step is a pure function of seed and step, as for windows: every epoch visits each row once, in a
fresh order. Rows that are packed are made once, with best fit, the longest examples first (Krell et al. 2021).
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fathom.data.batches import IGNORED, Batch
from fathom.data.examples import ExampleFile
from fathom.errors import FathomError

Row = list[int]  # places of examples


def pack(lengths: Sequence[int], capacity: int) -> list[Row]:
    """Rows of at most `capacity` tokens that hold everything: each text goes where the least room is left over."""
    rows: list[Row] = []
    rooms: list[tuple[int, int]] = []  # (what is free, row), ascending
    for place in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        found = bisect_left(rooms, (lengths[place], -1))
        room, row = rooms.pop(found) if found < len(rooms) else (capacity, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(place)
        insort(rooms, (room - lengths[place], row))
    return rows


class ExampleBatches:
    """The batches of a run that learns from examples. capacity: None gives each example a row of its own."""

    def __init__(self, examples: ExampleFile, batch_size: int, seed: int, capacity: int | None = None) -> None:
        if batch_size < 1 or not len(examples):
            raise FathomError(f"{len(examples)} examples in batches of {batch_size}; expected at least one of each")
        self.examples, self.batch_size, self.seed = examples, batch_size, seed
        self.rows = rows_of(examples, capacity)
        self._orders: dict[int, NDArray[np.int64]] = {}

    def at(self, step: int) -> Batch:
        """The rows of a step, the longest first; a batch at the end of an epoch is filled from the next."""
        first = step * self.batch_size
        places = [self._row(*divmod(place, len(self.rows))) for place in range(first, first + self.batch_size)]
        return batch(self.examples, [self.rows[place] for place in places])

    def _row(self, epoch: int, place: int) -> int:
        """Which row is visited as number `place` of its epoch."""
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = np.random.default_rng([self.seed, epoch]).permutation(len(self.rows))
        return int(self._orders[epoch][place])


def rows_of(examples: ExampleFile, capacity: int | None) -> list[Row]:
    """One row for each example, or packed ones. The last token of an example is only predicted, so it takes no room."""
    return [[i] for i in range(len(examples))] if capacity is None else pack((examples.lengths - 1).tolist(), capacity)


def eval_rows(examples: ExampleFile, count: int | None, batch_size: int, capacity: int | None) -> Iterator[Batch]:
    """The same batches every time: all rows or `count` of them, rows of like length together."""
    rows = rows_of(examples, capacity)
    if count is not None and count < len(rows):
        rows = [rows[i * len(rows) // count] for i in range(count)]
    rows.sort(key=lambda row: width(examples, row))
    for start in range(0, len(rows), batch_size):
        yield batch(examples, rows[start : start + batch_size])


def width(examples: ExampleFile, row: Row) -> int:
    """Tokens that a row reads."""
    return int(sum(examples.lengths[place] - 1 for place in row))


def batch(examples: ExampleFile, rows: Sequence[Row]) -> Batch:
    """Rows as tensors, the longest first, so that micro-batches hold little filling."""
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
