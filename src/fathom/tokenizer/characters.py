"""One token per character of the training text, or one per byte of UTF-8: the smallest vocabularies.

A character that the training text lacks cannot be encoded; the error names it, and the tokenizers that have every one.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fathom.errors import FathomError, OutsideVocabulary
from fathom.tokenizer.protocol import TokenArray, Tokenizer, check_ids, id_dtype, utf8

CODE_POINTS = 0x110000  # of Unicode


class ByteTokenizer(Tokenizer):
    """256 tokens; the id of a byte is its value."""

    kind = "byte"
    vocab_size = 256

    def encode_array(self, text: str) -> TokenArray:
        return np.frombuffer(utf8(text), np.uint8)

    def cut(self, text: str) -> int:
        return len(text)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return bytes(check_ids(ids, self.vocab_size))

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind}


class CharacterTokenizer(Tokenizer):
    """The id of a character is its place in `characters`."""

    kind = "char"

    def __init__(self, characters: str) -> None:
        if not characters:
            raise FathomError("a character vocabulary without characters; expected at least one")
        if len(set(characters)) < len(characters):
            twice = next(c for c in characters if characters.count(c) > 1)
            raise FathomError(f"the character vocabulary holds {describe(twice)} twice; every character needs one id")
        utf8(characters)
        self.characters = characters
        self.vocab_size = len(characters)
        codes = code_points(characters)
        self._id_of = np.full(int(codes.max()) + 2, -1, np.int32)  # by code point; the last entry: all beyond
        self._id_of[codes] = np.arange(len(codes))

    @classmethod
    def train(cls, chunks: Iterable[str]) -> "CharacterTokenizer":
        """The vocabulary of a text: its characters, in the order of their code points."""
        seen = np.zeros(CODE_POINTS, np.bool_)
        for chunk in chunks:
            seen[code_points(chunk)] = True
        return cls("".join(map(chr, np.flatnonzero(seen))))

    def encode_array(self, text: str) -> TokenArray:
        ids = self._id_of[np.minimum(code_points(text), len(self._id_of) - 1)]
        if (ids < 0).any():
            place = int((ids < 0).argmax())
            raise OutsideVocabulary(
                f"{describe(text[place])} at position {place} is not among the {self.vocab_size} characters that this"
                " model knows; leave it out, or train with --tokenizer byte or bpe:SIZE, which know every character"
            )
        return ids.astype(id_dtype(self.vocab_size))

    def cut(self, text: str) -> int:
        return len(text)

    def decode(self, ids: Sequence[int]) -> str:
        return "".join([self.characters[i] for i in check_ids(ids, self.vocab_size)])

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return self.decode(ids).encode("utf-8")

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "characters": self.characters}


def code_points(text: str) -> NDArray[np.uint32]:
    """(len(text),) the code point of every character."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def name(character: str) -> str:
    return unicodedata.name(character, f"CODE POINT {ord(character)}")


def describe(character: str) -> str:
    """`'é' (U+00E9 LATIN SMALL LETTER E WITH ACUTE)`"""
    return f"{character!r} (U+{ord(character):04X} {unicodedata.name(character, 'without a name')})"
