"""Token ids on disk: a plain one-dimensional .npy of the narrowest unsigned type, read through a memory map.

Written as a stream, complete or not at all. An id never wraps: what does not fit is refused with its place.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from fathom.data.corpus import Corpus
from fathom.errors import FathomError, OutsideVocabulary
from fathom.files import replacing
from fathom.tokenizer.protocol import TokenArray, Tokenizer, id_dtype, safe_chunks

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


# A corpus as two token files: the first part to learn from, the last to validate on.
#
# Memory stays bounded whatever the size: the text passes through in pieces that no token crosses.

TRAIN, VAL = "train.npy", "val.npy"
Progress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass(frozen=True)
class Prepared:
    """Two token files and how many tokens each holds."""

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
) -> Prepared:
    """Write train.npy and val.npy: the tokens of the corpus, split once at 1 - val_fraction of them."""
    if not 0 <= val_fraction < 1:
        raise FathomError(f"val_fraction is {val_fraction}; expected a part from 0 to below 1, such as 0.1")
    dtype, everything = id_dtype(tokenizer.vocab_size), out_dir / ".tokens.npy"
    try:
        count = write_tokens(everything, encoded(corpus, tokenizer, progress), dtype)
        split = int(count * (1 - val_fraction))
        n_val = write_tokens(out_dir / VAL, blocks(everything, split), dtype)
        n_train = write_tokens(out_dir / TRAIN, blocks(everything, 0, split), dtype)  # last: where it is, both are
    finally:
        everything.unlink(missing_ok=True)
    return Prepared(out_dir / TRAIN, out_dir / VAL, n_train, n_val)


def encoded(corpus: Corpus, tokenizer: Tokenizer, progress: Progress) -> Iterator[TokenArray]:
    """The ids of the corpus; between documents stands eos, or a newline where the tokenizer has no eos."""
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


def text_size(tokens: TokenArray, tokenizer: Tokenizer) -> tuple[int, int]:
    """(characters, bytes) that the tokens spell: what turns a loss per token into one per character or byte.

    The end of a document counts as the newline that stands there with a tokenizer without eos.
    """
    spelled = [within(tokenizer, id) if id != tokenizer.eos else b"\n" for id in range(tokenizer.vocab_size)]
    n_bytes = np.array([len(text) for text in spelled])
    n_characters = np.array([sum(byte & 0xC0 != 0x80 for byte in text) for text in spelled])  # first bytes of each
    characters = bytes_ = 0
    for start in range(0, len(tokens), BLOCK):
        counts = np.bincount(tokens[start : start + BLOCK], minlength=tokenizer.vocab_size)
        characters, bytes_ = characters + int(counts @ n_characters), bytes_ + int(counts @ n_bytes)
    return characters, bytes_


def within(tokenizer: Tokenizer, id: int) -> bytes:
    """What a token spells inside a text: some drop a space at its start."""
    return tokenizer.decode_bytes([id, id])[len(tokenizer.decode_bytes([id])) :]
