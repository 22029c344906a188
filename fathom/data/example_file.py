"""Examples on disk: their tokens one after another, which of them are learned, where each ends, and whose they were.

    ids.npy  trained.npy (0 or 1)  ends.npy  numbers.npy (of the record in its file, from 1)

Written once, when a run is made, and read through a memory map, so that to resume needs neither the file of records nor
the tokenizer. Does not know how examples become batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fathom.data.examples import Example
from fathom.data.token_file import open_tokens, write_tokens
from fathom.errors import FathomError
from fathom.tokenizer.protocol import TokenArray, id_dtype

FIELDS = ("ids", "trained", "ends", "numbers")


@dataclass(frozen=True)
class Short:
    """An example as numbers. `number` is its record's."""

    ids: TokenArray  # (n,)
    trained: NDArray[np.uint8]  # (n,)
    number: int

    @property
    def n_trained(self) -> int:
        """Tokens that are predicted and learned; nothing predicts the first."""
        return int(self.trained[1:].sum())


def short(example: Example, number: int, length: int, vocab_size: int, whole: bool) -> Short:
    """The first `length` tokens of an example; `whole`: all of them are learned."""
    ids = np.array(example.ids[:length], id_dtype(vocab_size))
    return Short(ids, np.array(example.trained[:length], np.uint8) | np.uint8(whole), number)


class ExampleFile:
    """The examples in a folder."""

    def __init__(self, folder: Path, vocab_size: int) -> None:
        """FathomError where it is not complete or does not fit together."""
        largest = {"ids": vocab_size, "trained": 2, "ends": 1 << 62, "numbers": 1 << 62}
        self.folder = folder
        self.ids, self.trained, ends, self.numbers = (
            open_tokens(folder / f"{field}.npy", largest[field]) for field in FIELDS
        )
        self.ends = np.concatenate([np.zeros(1, np.int64), ends.astype(np.int64)])  # (n + 1,)
        sizes = (len(self.trained), int(self.ends[-1]))
        if sizes != (len(self.ids),) * 2 or len(ends) != len(self.numbers) or (np.diff(self.ends) < 2).any():
            raise FathomError(f"{folder}: its files do not fit together; prepare the data again")

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> Short:
        part = slice(self.ends[place], self.ends[place + 1])
        return Short(self.ids[part], self.trained[part], int(self.numbers[place]))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) tokens of each."""
        return np.diff(self.ends)


def write_examples(folder: Path, examples: Sequence[Short], vocab_size: int) -> None:
    """Write them into a new folder."""
    folder.mkdir()
    kinds: dict[str, tuple[list[TokenArray], Any]] = {
        "ids": ([example.ids for example in examples], id_dtype(vocab_size)),
        "trained": ([example.trained for example in examples], np.uint8),
        "ends": ([np.cumsum([len(example.ids) for example in examples], dtype=np.uint64)], np.uint64),
        "numbers": ([np.array([example.number for example in examples], np.uint64)], np.uint64),
    }
    for field, (arrays, dtype) in kinds.items():
        write_tokens(folder / f"{field}.npy", arrays, np.dtype(dtype))
