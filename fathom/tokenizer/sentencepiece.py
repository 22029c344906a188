"""SentencePiece's byte pair encoding, as in LLaMA 1 and 2 (Kudo and Richardson 2018): spaces are letters, written ▁.

A text gets a space before its first word, then the best-scored pair of neighbours is joined until none is a piece;
characters that no piece spells become bytes. Joining is done by the `sentencepiece` library, which is only ever given
the checked parts of a vocabulary; here is what it does not say: exact bytes, and that text never becomes a special
token.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import sentencepiece

from fathom.errors import FathomError
from fathom.tokenizer import library
from fathom.tokenizer.byte_fallback import PREPEND, REPLACE, ByteFallbackTokenizer
from fathom.tokenizer.library import merges_of
from fathom.tokenizer.pieces import (
    BYTE,
    BYTE_PIECES,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Pieces,
    read_fields,
    read_pieces,
    read_small,
    write_pieces,
)
from fathom.tokenizer.protocol import InPieces, Special, Tokenizer, known, read_special, utf8

PART = 1 << 16  # characters: what the library encodes at a time; it is four times as slow on millions at once
UNKNOWN_TEXT = " ⁇ ".encode()  # what the library writes for the unknown piece


class SentencePieceTokenizer(InPieces):
    """The tokenizer of a vocabulary of pieces."""

    kind = "sentencepiece"

    def __init__(self, pieces: Pieces, special: Special) -> None:
        self.pieces = pieces.check()
        self.vocab_size = len(pieces.texts)
        self.special = special.check(self.vocab_size)
        self._bytes = [_bytes_of(text, type) for text, type in zip(pieces.texts, pieces.types)]
        self._strips = pieces.dummy_prefix or pieces.squeeze_spaces
        self._library = _library(pieces)

    def _encode(self, text: str) -> Iterator[list[int]]:
        """The ids of the text, part by part."""
        utf8(text)
        if self.pieces.squeeze_spaces:
            text = re.sub(" +", " ", text.lstrip(" ")).rstrip(f" {SPACE}")
        if text and self.pieces.dummy_prefix:
            text = " " + text
        return map(self._library.encode, self._parts(text.replace(" ", SPACE)))

    def _parts(self, text: str) -> Iterator[str]:
        """The text in parts that no piece joins: between them stand two characters that no piece has side by side."""
        start = 0
        while len(text) - start > PART and self._neighbours is not None:
            nearest = chain(range(start + PART, start, -1), range(start + PART + 1, len(text)))
            end = next((at for at in nearest if text[at - 1 : at + 1] not in self._neighbours), len(text))
            yield text[start:end]
            start = end
        yield text[start:]

    @cached_property
    def _neighbours(self) -> frozenset[str] | None:
        """Every two characters that stand side by side in a piece; None: how a part is encoded depends on the rest.

        It does with unused pieces: the library takes them apart as they were last joined, wherever in the text.
        """
        if any(type == UNUSED and len(text) > 1 for text, type in zip(self.pieces.texts, self.pieces.types)):
            return None
        joined = [text for text, type in zip(self.pieces.texts, self.pieces.types) if type == NORMAL]
        return frozenset(text[at : at + 2] for text in joined for at in range(len(text) - 1))

    def cut(self, text: str) -> int:
        """Nowhere where a space goes before a text: it would also go before the second part, and be a space more."""
        if self._strips or self._neighbours is None:
            return 0
        text = text.replace(" ", SPACE)
        return next((at for at in range(len(text) - 1, 0, -1) if text[at - 1 : at + 1] not in self._neighbours), 0)

    def decode(self, ids: Sequence[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The exact bytes, without the space before a first word; of control pieces none, as the library has it."""
        ids = known(ids, self.vocab_size)
        parts = [self._bytes[id] for id in ids]
        first = next((place for place, part in enumerate(parts) if part), None)
        if self._strips and first is not None and self.pieces.texts[ids[first]].startswith(SPACE):
            parts[first] = parts[first].removeprefix(b" ")
        return b"".join(parts)

    def to_json(self) -> dict[str, Any]:
        pieces = self.pieces
        lists = {"pieces": list(pieces.texts), "scores": list(pieces.scores), "types": list(pieces.types)}
        spaces = {"dummy_prefix": pieces.dummy_prefix, "squeeze_spaces": pieces.squeeze_spaces}
        return {"kind": self.kind, **self.special.to_json(), **spaces, **lists}


def _bytes_of(text: str, type: int) -> bytes:
    """What a piece adds to a text."""
    if type in (CONTROL, UNKNOWN):
        return b"" if type == CONTROL else UNKNOWN_TEXT
    return bytes([int(text[1:-1], 16)]) if type == BYTE else text.replace(SPACE, " ").encode("utf-8")


def _library(pieces: Pieces) -> sentencepiece.SentencePieceProcessor:
    """The library's tokenizer of the same pieces, blind to special ones in text, and adding and removing no spaces."""
    types = tuple(
        type if type != USER_DEFINED else CONTROL if len(text) > 1 else NORMAL
        for text, type in zip(pieces.texts, pieces.types)
    )
    plain = replace(pieces, types=types, dummy_prefix=False, squeeze_spaces=False)
    library = sentencepiece.SentencePieceProcessor()
    try:
        library.LoadFromSerializedProto(write_pieces(plain, Special()))
    except (RuntimeError, OSError) as problem:
        raise FathomError(f"not a vocabulary of the sentencepiece library ({problem})") from None
    return library


def read_sentencepiece(path: Path, vocab_size: int) -> SentencePieceTokenizer:
    """The tokenizer in a SentencePiece model file, of at most `vocab_size` pieces."""
    data = read_small(path, vocab_size)
    try:
        return SentencePieceTokenizer(*read_pieces(data, vocab_size))
    except FathomError as problem:
        raise FathomError(f"{path}: {problem}") from None


def to_sentencepiece(tokenizer: SentencePieceTokenizer) -> bytes:
    """The bytes of a SentencePiece model file. It has no place for a chat template."""
    return write_pieces(tokenizer.pieces, tokenizer.special)


def is_sentencepiece(path: Path) -> bool:
    """Whether the file begins as a SentencePiece model does: with a message that holds the text of a piece."""
    with path.open("rb") as file:
        head = file.read(1 << 14)
    try:
        first, message, at = next(read_fields(head))
        field, text, _ = next(read_fields(message, at)) if first == 1 and isinstance(message, bytes) else (0, b"", 0)
        return field == 1 and isinstance(text, bytes) and bool(text.decode("utf-8"))
    except (FathomError, StopIteration, UnicodeDecodeError):
        return False


def from_json(values: Mapping[str, Any]) -> SentencePieceTokenizer:
    """The tokenizer whose `to_json` these values are."""
    lists = [_list(values, key, kinds) for key, kinds in (("pieces", str), ("scores", (int, float)), ("types", int))]
    prefix, squeeze = values.get("dummy_prefix"), values.get("squeeze_spaces")
    if not isinstance(prefix, bool) or not isinstance(squeeze, bool):
        raise FathomError("'dummy_prefix' or 'squeeze_spaces' is damaged; expected true or false")
    texts, scores, types = map(tuple, lists)
    return SentencePieceTokenizer(Pieces(texts, scores, types, prefix, squeeze), read_special(values))


def _list(values: Mapping[str, Any], key: str, kinds: type | tuple[type, ...]) -> list[Any]:
    found = values.get(key)
    if not isinstance(found, list) or not all(isinstance(item, kinds) for item in found):
        raise FathomError(f"{key!r} is damaged; expected a list of {'text' if kinds is str else 'numbers'}")
    return found


# A BPE with byte fallback, which is LLaMA 2's tokenizer told as merges, as SentencePiece's pieces with scores.
#
# Merges join the pair that comes first in their list, SentencePiece the one whose piece has the best score. Both are
# the same where the merges that make a token stand together, and the pair from which SentencePiece makes it is among
# them.


def as_sentencepiece(tokenizer: Tokenizer) -> Tokenizer:
    """A BPE with byte fallback as SentencePiece, any other tokenizer as it is. FathomError: it has no equal there."""
    if not isinstance(tokenizer, ByteFallbackTokenizer):
        return tokenizer
    prefix = _prefix(tokenizer)
    model = tokenizer.to_json()["tokenizer"]["model"]
    texts = sorted(model["vocab"], key=model["vocab"].__getitem__)
    types = _types(tokenizer, texts, model["unk_token"])
    ranked = _ranked(model, [text for text, type in zip(texts, types) if type == NORMAL])
    scores = {text: -float(place) for place, text in enumerate(ranked)}
    pieces = Pieces(tuple(texts), tuple(scores.get(text, 0.0) for text in texts), tuple(types), prefix)
    return SentencePieceTokenizer(pieces, tokenizer.special)


def _prefix(tokenizer: ByteFallbackTokenizer) -> bool:
    """Whether a space goes before every text. A Metaspace puts none before a space, which no SentencePiece does."""
    match library.parts(tokenizer.hf, "normalizer"), library.parts(tokenizer.hf, "pre_tokenizer"):
        case [one, two], [] if (one, two) == (PREPEND, REPLACE):
            return True
        case ([one], []) if one == REPLACE:
            return False
        case [], [{"type": "Metaspace", "prepend_scheme": "never", "split": False}]:
            return False
    raise FathomError("spaces are treated as SentencePiece has no name for; use the tokenizer.model it was made from")


def _types(tokenizer: ByteFallbackTokenizer, texts: list[str], unknown: str | None) -> list[int]:
    added = {token.content: token.special for token in tokenizer.hf.get_added_tokens_decoder().values()}
    known = {text: CONTROL if special else USER_DEFINED for text, special in added.items()}
    known |= {**dict.fromkeys(tokenizer.special.names, CONTROL), **dict.fromkeys(BYTE_PIECES, BYTE)}
    return [UNKNOWN if text == unknown else known.get(text, NORMAL) for text in texts]


def _ranked(model: dict[str, Any], normal: list[str]) -> list[str]:
    """The tokens that text becomes, the one that is joined first before all others."""
    merges = [tuple(merge.split(" ", 1) if isinstance(merge, str) else merge) for merge in model["merges"]]
    made = [token for _, block in groupby(merges, _run_of) for token in _made(list(block))]
    known = set(made)
    # where ids follow the merges single letters, which nothing joins, keep their places: so SentencePiece scores them
    by_id = sorted(made, key=model["vocab"].__getitem__) == made
    ranked = normal if by_id else [*made, *(text for text in normal if text not in known)]
    needed = merges_of({text: rank for rank, text in enumerate(ranked)})
    if len(known) < len(made) or not set(merges) >= set(needed) or not known <= set(normal):
        raise FathomError("its merges join otherwise than by one score for each token; expected LLaMA 2's kind of BPE")
    return ranked


def _run_of(merge: tuple[str, str]) -> str:
    """The letter of which the token that is made is a run, as LLaMA 2's of spaces; empty: of several."""
    letters = set("".join(merge))
    return letters.pop() if len(letters) == 1 else ""


def _made(merges: list[tuple[str, str]]) -> list[str]:
    """The tokens that these merges make, in order: more than once where others' stand between.

    Runs of one letter have the same score in LLaMA 2, and their merges stand mixed. Where two letters come last and
    every run can grow by one letter, a run grows from its left: the same as when the longer run always comes first.
    """
    made = [token for token, _ in groupby(merges, "".join)]
    letter, longest = _run_of(merges[0]), max(map(len, made))
    growing = {(letter * length, letter) for length in range(1, longest)}
    if letter and len(set(made)) < len(made) and set(merges) >= growing and merges[-1] == (letter, letter):
        return [letter * length for length in range(longest, 1, -1)]
    return made
