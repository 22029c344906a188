"""Token ids on disk: a plain one-dimensional .npy of the narrowest unsigned type, read through a memory map.

Written as a stream, complete or not at all. An id never wraps: what does not fit is refused with its place.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from fathom.atomic import replacing
from fathom.errors import FathomError, OutsideVocabulary
from fathom.tokenizer.protocol import TokenArray

BLOCK = 1 << 20  # ids


def write_tokens(path: Path, arrays: Iterable[TokenArray], dtype: np.dtype[Any]) -> int:
    """Write the ids of all arrays one after another; returns how many."""
    dtype, count = np.dtype(dtype), 0
    with replacing(path) as file:
        _write_header(file, dtype, 0)
        for array in arrays:
            _refuse_above(int(np.iinfo(dtype).max), array, path, count, f"the type {dtype}")
            file.write(array.astype(dtype, copy=False).tobytes())
            count += len(array)
        file.seek(0)
        _write_header(file, dtype, count)  # as long as the first: the format leaves room for the count to grow
    return count


def open_tokens(path: Path, vocab_size: int) -> TokenArray:
    """The ids of a token file as a memory map, after every one was seen to be below `vocab_size`."""
    try:
        tokens = npy.open_memmap(path, mode="r")
    except OSError as problem:
        raise FathomError(f"{path}: cannot be read ({problem.strerror or problem}); expected a token file") from None
    except ValueError as problem:
        raise FathomError(f"{path}: not a token file or a damaged one ({problem}); prepare the data again") from None
    if tokens.ndim != 1 or tokens.dtype.kind != "u":
        found = f"{tokens.dtype} with shape {tokens.shape}"
        raise FathomError(f"{path}: holds {found}; expected one row of unsigned ids; prepare the data again")
    place = 0
    for block in blocks(path):
        _refuse_above(vocab_size - 1, block, path, place, f"a vocabulary of {vocab_size}")
        place += len(block)
    return tokens


def blocks(path: Path, start: int = 0, stop: int | None = None) -> Iterator[TokenArray]:
    """The ids from `start` to `stop` in order, read and not mapped, so that memory holds one block at a time."""
    tokens = npy.open_memmap(path, mode="r")  # for its header alone: pages of a map that are read count as memory used
    stop = min(len(tokens), len(tokens) if stop is None else stop)
    with path.open("rb") as file:
        file.seek(tokens.offset + start * tokens.itemsize)
        while start < stop:
            block = np.frombuffer(file.read(min(BLOCK, stop - start) * tokens.itemsize), tokens.dtype)
            if not len(block):
                raise FathomError(f"{path}: ends after {start} of {len(tokens)} ids; prepare the data again")
            yield block
            start += len(block)


def _write_header(file: BinaryIO, dtype: np.dtype[Any], count: int) -> None:
    npy.write_array_header_1_0(file, {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)})


def _refuse_above(largest: int, ids: TokenArray, path: Path, place: int, limit: str) -> None:
    if len(ids) and int(ids.max()) > largest:
        inside = int((ids > largest).argmax())
        raise OutsideVocabulary(
            f"{path}: id {int(ids[inside])} at index {place + inside} does not fit {limit}; the tokens were made with"
            " another tokenizer: prepare the data again"
        )
