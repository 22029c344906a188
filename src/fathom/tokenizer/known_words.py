"""The ids of words that a text has had before, so that the library merges each word once.

Most words of a text are repeated, and ids of a word do not hang on its neighbours: where a text may be cut, it is, and
the ids of its pieces are looked up. Only new pieces go to the library. Where it is known how the library splits text
in ASCII, the pieces are its words; else they reach from one space to the next.
"""

import re
from collections.abc import Callable, Iterable

import numpy as np

from fathom.tokenizer.protocol import TokenArray, id_dtype

ROOM = 32 << 20  # bytes of words that are remembered, about; then all of them are forgotten
EACH = 220  # bytes that a word takes beside its letters
ASCII_WORDS = re.compile(  # GPT-2's pattern, on text in ASCII
    r"'(?:[stmd]|re|ve|ll)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+", re.ASCII
)


def pieces_before(spaces: str) -> re.Pattern[str]:
    """Matches the pieces into which a text is cut before each of these characters that does not follow a space."""
    return re.compile(rf"\s*\S+(?:[^\S{spaces}]\s*(?:\S+|\Z))*|\s+")


class KnownWords:
    """Ids of texts; the words of earlier texts are remembered. Threads may use one together."""

    def __init__(
        self,
        encode: Callable[[list[str]], Iterable[list[int]]],
        vocab_size: int,
        pieces: re.Pattern[str],
        in_ascii: re.Pattern[str] | None = None,
    ) -> None:
        """encode: the ids of each of several pieces. in_ascii: the pieces of a text in ASCII, where they are known."""
        self.new_ids, self.dtype, self.pieces, self.in_ascii = encode, id_dtype(vocab_size), pieces, in_ascii or pieces
        self.known, self.room = dict[str, bytes](), ROOM

    def encode(self, text: str) -> TokenArray:
        """(n,) the ids of a text."""
        words = (self.in_ascii if text.isascii() else self.pieces).findall(text)
        known = self.known  # the name may change meanwhile
        try:
            ids = bytearray().join(map(known.__getitem__, words))
        except KeyError:
            known = self.learn(words)
            ids = bytearray().join(map(known.__getitem__, words))
        return np.frombuffer(ids, self.dtype)

    def learn(self, words: Iterable[str]) -> dict[str, bytes]:
        """What is known, with these words."""
        known = self.known
        new, room = [*set(words).difference(known)], self.room
        if room < needed(new):
            known, new, room = {}, [*set(words)], ROOM
        for word, ids in zip(new, self.new_ids(new), strict=True):
            known[word] = np.array(ids, self.dtype).tobytes()
        self.known, self.room = known, room - needed(new)
        return known


def needed(words: list[str]) -> int:
    """About how many bytes it takes to remember these words."""
    return sum(map(len, words)) + EACH * len(words)
