"""llama2.c's `tokenizer.bin`: a SentencePiece vocabulary without its types (tokenizer.py and run.c of that project).

A uint32, the bytes of the longest token; then for each id a float32 score, an int32 length and so many bytes, all
little-endian. Spaces are spaces, <s> and </s> are written between newlines; ids 0 to 258 are always <unk>, <s>, </s>
and the bytes.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from fathom.errors import FathomError
from fathom.tokenizer.pieces import BYTE, BYTE_PIECES, CONTROL, NORMAL, SPACE, UNKNOWN, Pieces, decoded
from fathom.tokenizer.protocol import MATCHING, Special, Tokenizer, check_size
from fathom.tokenizer.sentencepiece import SentencePieceTokenizer, as_sentencepiece, read_vocabulary

FIRST = ("<unk>", "<s>", "</s>", *BYTE_PIECES)  # hard-coded in run.c
FIRST_WRITTEN = ("<unk>", "\n<s>\n", "\n</s>\n", *BYTE_PIECES)
FIRST_TYPES = (UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256)
ENTRY = struct.Struct("<fi")


def read_tokenizer_bin(path: Path, vocab_size: int) -> SentencePieceTokenizer:
    """The tokenizer in the file, for a model of `vocab_size` ids; it puts <s> before every text."""
    data = read_vocabulary(path, vocab_size)
    try:
        if (count := sum(1 for _ in _entries(data))) * MATCHING > vocab_size:
            check_size(count, vocab_size)
        return _tokenizer([(decoded(token, f"the token at offset {at}"), score) for score, token, at in _entries(data)])
    except FathomError as problem:
        raise FathomError(f"{path}: {problem}") from None


def _tokenizer(rows: list[tuple[str, float]]) -> SentencePieceTokenizer:
    for id, expected in enumerate(FIRST_WRITTEN):
        actual = rows[id][0] if id < len(rows) else "missing"
        if actual != expected:
            raise FathomError(f"token {id} is {actual[:40]!r}; expected {expected!r}")
    texts = (*FIRST, *(text.replace(" ", SPACE) for text, _ in rows[len(FIRST) :]))
    types = (*FIRST_TYPES, *[NORMAL] * (len(rows) - len(FIRST)))
    pieces = Pieces(texts, tuple(score for _, score in rows), types)
    return SentencePieceTokenizer(pieces, Special(1, 2, names={"<s>": 1, "</s>": 2}, prefix=(1,)))


def is_tokenizer_bin(path: Path, vocab_size: int) -> bool:
    """Whether the file holds `vocab_size` tokens, to its last byte."""
    try:
        return sum(1 for _ in _entries(read_vocabulary(path, vocab_size))) == vocab_size
    except FathomError:
        return False


def to_tokenizer_bin(tokenizer: Tokenizer, vocab_size: int | None = None) -> bytes:
    """The bytes of a file of `vocab_size` tokens (None: the tokenizer's); run.c needs one for each of a model's ids.

    A chat template is lost, and which pieces after the bytes are special; text becomes none of them all the same.
    """
    tokenizer = as_sentencepiece(tokenizer)
    if not isinstance(tokenizer, SentencePieceTokenizer) or tokenizer.pieces.texts[: len(FIRST)] != FIRST:
        actual = "with other first tokens" if isinstance(tokenizer, SentencePieceTokenizer) else f"({tokenizer.kind})"
        raise FathomError(
            f"a tokenizer {actual}; llama2.c supports only SentencePiece with <unk>, <s>, </s> and the 256 bytes as ids"
            f" 0 to {len(FIRST) - 1}"
        )
    pieces, size = tokenizer.pieces, vocab_size or tokenizer.vocab_size
    check_size(tokenizer.vocab_size, size)
    texts = [*FIRST_WRITTEN, *(text.replace(SPACE, " ") for text in pieces.texts[len(FIRST) :])]
    texts += [f"[PAD{id}]" for id in range(len(texts), size)]
    scores = [*pieces.scores, *[-1e9] * (size - len(pieces.scores))]
    tokens = [text.encode("utf-8") for text in texts]
    rows = [ENTRY.pack(score, len(token)) + token for score, token in zip(scores, tokens)]
    return struct.pack("<I", max(map(len, tokens))) + b"".join(rows)


def _entries(data: bytes) -> Iterator[tuple[float, bytes, int]]:
    """(score, bytes, offset of the bytes) of each token. FathomError: a length is damaged."""
    longest = int.from_bytes(data[:4], "little")
    at = 4
    while at < max(len(data), 5):
        score, length = ENTRY.unpack_from(data, at) if at + ENTRY.size <= len(data) else (0.0, 0)
        start, at = at + ENTRY.size, at + ENTRY.size + length
        if not 0 < length <= longest or at > len(data):
            raise FathomError(f"offset {start}: no token of 1 to {longest} bytes; expected a tokenizer.bin of llama2.c")
        yield score, data[start:at], start
