"""Token ids on disk: a one-dimensional .npy of the narrowest unsigned type, read through a memory map.

A file is written as a stream and is complete or not there. An id never wraps: one that does not fit is refused with
its place. A corpus becomes two files, the first part to learn from, the last to validate on.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.lib import format as npy

from fathom.data.corpus import Corpus
from fathom.errors import FathomError, OutsideVocabulary
from fathom.files import replacing
from fathom.tokenizer.protocol import TokenArray, Tokenizer, id_dtype, safe_chunks

TRAIN, VAL = "train.npy", "val.npy"

BLOCK = 1 << 20  # ids that are read at a time


class Tokens(Protocol):
    """(n,) ids: an array, or several files one after another."""

    def __len__(self) -> int: ...
    def __getitem__(self, places: slice, /) -> TokenArray: ...
    def max(self) -> Any: ...


Progress = Callable[[int, int], None]  # bytes done, bytes in total


class TokenWriter:
    """The ids of a token file, written one array after another."""

    def __init__(self, file: BinaryIO, dtype: np.dtype[Any], path: Path) -> None:
        self.file, self.dtype, self.path = file, dtype, path
        self.count, self.digest = 0, hashlib.sha256()  # of the ids so far

    def append(self, ids: TokenArray) -> None:
        _check_largest(int(np.iinfo(self.dtype).max), ids, self.path, self.count, f"the type {self.dtype}")
        data = ids.astype(self.dtype, copy=False).tobytes()
        self.file.write(data)
        self.digest.update(data)
        self.count += len(ids)


@contextmanager
def token_writer(path: Path, dtype: np.dtype[Any]) -> Iterator[TokenWriter]:
    """A new token file, which is in its place when the block has succeeded."""
    dtype = np.dtype(dtype)
    with replacing(path) as file:
        write_header(file, dtype, 0)
        writer = TokenWriter(file, dtype, path)
        yield writer
        file.seek(0)
        write_header(file, dtype, writer.count)  # as long as the first: the format leaves space for the count to grow


def write_tokens(path: Path, arrays: Iterable[TokenArray], dtype: np.dtype[Any]) -> int:
    """Write the ids of all arrays one after another; returns how many."""
    with token_writer(path, dtype) as writer:
        for array in arrays:
            writer.append(array)
    return writer.count


def open_tokens(path: Path, vocab_size: int) -> TokenArray:
    """(n,) the ids of a token file as a memory map, all of them checked to be below `vocab_size`."""
    try:
        tokens = npy.open_memmap(path, mode="r")
    except OSError as problem:
        raise FathomError(f"{path}: cannot be read ({problem.strerror or problem}); expected a token file") from None
    except ValueError as problem:
        raise FathomError(f"{path}: not a token file or a damaged one ({problem}); prepare the data again") from None
    if tokens.ndim != 1 or tokens.dtype.kind != "u":
        actual = f"{tokens.dtype} with shape {tokens.shape}"
        raise FathomError(f"{path}: holds {actual}; expected one row of unsigned ids; prepare the data again")
    place = 0
    for block in read_blocks(path):
        _check_largest(vocab_size - 1, block, path, place, f"a vocabulary of {vocab_size}")
        place += len(block)
    return tokens


def read_blocks(path: Path, start: int = 0, stop: int | None = None) -> Iterator[TokenArray]:
    """The ids from `start` to before `stop`, read and not mapped, so that memory holds one block at a time."""
    tokens = npy.open_memmap(path, mode="r")  # for its header only: pages of a map that are read count as used memory
    stop = min(len(tokens), len(tokens) if stop is None else stop)
    with path.open("rb") as file:
        file.seek(tokens.offset + start * tokens.itemsize)
        while start < stop:
            block = np.frombuffer(file.read(min(BLOCK, stop - start) * tokens.itemsize), tokens.dtype)
            if not len(block):
                raise FathomError(f"{path}: ends after {start} of {len(tokens)} ids; prepare the data again")
            yield block
            start += len(block)


def write_header(file: BinaryIO, dtype: np.dtype[Any], count: int) -> None:
    """What a token file begins with: its length does not hang on the count."""
    npy.write_array_header_1_0(file, {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)})


def _check_largest(largest: int, ids: TokenArray, path: Path, place: int, limit: str) -> None:
    if len(ids) and int(ids.max()) > largest:
        inside = int((ids > largest).argmax())
        raise OutsideVocabulary(
            f"{path}: id {int(ids[inside])} at index {place + inside} does not fit {limit}; the tokens were made with"
            " another tokenizer: prepare the data again"
        )


@dataclass(frozen=True)
class TokenFiles:
    """The two token files of a corpus and how many tokens each holds."""

    train: Path
    val: Path
    n_train: int
    n_val: int


def tokenize(
    corpus: Corpus,
    tokenizer: Tokenizer,
    out_dir: Path,
    val_fraction: float = 0.1,
    progress: Progress = lambda done, total: None,
) -> TokenFiles:
    """Write train.npy and val.npy: the tokens of the corpus, split once at 1 - val_fraction of them."""
    if not 0 <= val_fraction < 1:
        raise FathomError(f"val_fraction is {val_fraction}; expected a fraction from 0 to below 1, such as 0.1")
    dtype, everything = id_dtype(tokenizer.vocab_size), out_dir / ".tokens.npy"
    try:
        count = write_tokens(everything, encode_corpus(corpus, tokenizer, progress), dtype)
        split = int(count * (1 - val_fraction))
        n_val = write_tokens(out_dir / VAL, read_blocks(everything, split), dtype)
        n_train = write_tokens(out_dir / TRAIN, read_blocks(everything, 0, split), dtype)  # last of both
    finally:
        everything.unlink(missing_ok=True)
    return TokenFiles(out_dir / TRAIN, out_dir / VAL, n_train, n_val)


def encode_corpus(
    corpus: Corpus, tokenizer: Tokenizer, progress: Progress = lambda done, total: None
) -> Iterator[TokenArray]:
    """The ids of the corpus; documents are separated by eos, or by a newline where the tokenizer has none."""
    done, total = 0, corpus.size

    def counted(chunks: Iterator[str]) -> Iterator[str]:
        nonlocal done
        for chunk in chunks:
            yield chunk
            done += len(chunk.encode("utf-8"))
            progress(min(done, total), total)

    documents = iter([corpus.chunks()]) if tokenizer.eos is None else corpus.documents()
    for number, document in enumerate(documents):
        if number:
            yield np.array([tokenizer.eos], id_dtype(tokenizer.vocab_size))
        yield from map(tokenizer.encode_array, safe_chunks(counted(document), tokenizer.cut))
    progress(total, total)


def end_of_document(tokenizer: Tokenizer) -> list[int]:
    """What ends a document: eos, else a newline if the vocabulary has one."""
    if tokenizer.eos is not None:
        return [tokenizer.eos]
    try:
        return tokenizer.encode("\n")
    except OutsideVocabulary:
        return []


def text_size(tokens: Tokens, tokenizer: Tokenizer) -> tuple[int, int]:
    """(characters, bytes) that the tokens spell: they convert a loss per token into one per character or byte.

    eos counts as the newline that separates documents where a tokenizer has no eos.
    """
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    for start in range(0, len(tokens), BLOCK):
        counts += np.bincount(tokens[start : start + BLOCK], minlength=tokenizer.vocab_size)
    n_characters = n_bytes = 0
    for id in np.flatnonzero(counts).tolist():
        spelled = b"\n" if id == tokenizer.eos else tokenizer.token_bytes([id, id])[1]  # as inside a text
        n_characters += int(counts[id]) * sum(byte & 0xC0 != 0x80 for byte in spelled)  # the first bytes of each
        n_bytes += int(counts[id]) * len(spelled)
    return n_characters, n_bytes
