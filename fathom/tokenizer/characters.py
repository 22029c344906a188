"""One token per character that the training text holds: the smallest vocabulary a person can read.

What was not in the training text cannot be said; the error names the character and the nearest ones that can.
"""

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fathom.errors import FathomError, OutsideVocabulary
from fathom.tokenizer.protocol import Marked, TokenArray, id_dtype, known, utf8

# One token per byte of UTF-8: 256 tokens, any text, nothing to learn and nothing unknown.


class ByteTokenizer(Marked):
    """The id of a byte is its value."""

    kind = "byte"
    vocab_size = 256

    def encode(self, text: str) -> list[int]:
        return list(utf8(text))

    def encode_array(self, text: str) -> TokenArray:
        return np.frombuffer(utf8(text), np.uint8)

    def cut(self, text: str) -> int:
        return len(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return bytes(known(ids, self.vocab_size))

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind}


UNICODE = 0x110000  # code points there are


class CharacterTokenizer(Marked):
    """The id of a character is its place in `characters`."""

    kind = "char"

    def __init__(self, characters: str) -> None:
        if not characters:
            raise FathomError("a character vocabulary needs at least one character and the text has none")
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
        seen = np.zeros(UNICODE, np.bool_)
        for chunk in chunks:
            seen[code_points(chunk)] = True
        return cls("".join(map(chr, np.flatnonzero(seen))))

    def encode(self, text: str) -> list[int]:
        return self.encode_array(text).tolist()

    def encode_array(self, text: str) -> TokenArray:
        ids = self._id_of[np.minimum(code_points(text), len(self._id_of) - 1)]
        if (ids < 0).any():
            place = int((ids < 0).argmax())
            raise OutsideVocabulary(
                f"{describe(text[place])} at place {place} is not among the {self.vocab_size} characters of this"
                f" vocabulary; nearest are {', '.join(map(repr, self._nearest(text[place])))}; use one of these, or"
                " train on text that holds it"
            )
        return ids.astype(id_dtype(self.vocab_size))

    def cut(self, text: str) -> int:
        return len(text)

    def decode(self, ids: Sequence[int]) -> str:
        return "".join([self.characters[i] for i in known(ids, self.vocab_size)])

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return self.decode(ids).encode("utf-8")

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "characters": self.characters}

    def _nearest(self, character: str, count: int = 3) -> list[str]:
        """Other case and without accents first, then by the likeness of the Unicode names."""
        plain = unicodedata.normalize("NFKD", character)[0]
        alike = [c for c in (plain, plain.swapcase(), " " if plain.isspace() else "") if c and c in self.characters]
        names = {name(c): c for c in self.characters}
        alike += [names[match] for match in difflib.get_close_matches(name(character), names, count, 0.75)]
        alike = alike or [names[match] for match in difflib.get_close_matches(name(character), names, count, 0.0)]
        return list(dict.fromkeys(alike))[:count]


def code_points(text: str) -> NDArray[np.uint32]:
    """(len(text),) the code point of every character."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def name(character: str) -> str:
    return unicodedata.name(character, f"CODE POINT {ord(character)}")


def describe(character: str) -> str:
    """`'é' (U+00E9 LATIN SMALL LETTER E WITH ACUTE)`"""
    return f"{character!r} (U+{ord(character):04X} {unicodedata.name(character, 'without a name')})"
