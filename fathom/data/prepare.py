"""A corpus as two token files: the first part to learn from, the last to validate on.

Memory stays bounded whatever the size: the text passes through in pieces that no token crosses.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fathom.data.corpus import Corpus
from fathom.data.token_file import BLOCK, blocks, write_tokens
from fathom.errors import FathomError
from fathom.tokenizer.protocol import TokenArray, Tokenizer, id_dtype, whole_pieces

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
        yield from map(tokenizer.encode_array, whole_pieces(counted(document), tokenizer.cut))
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
