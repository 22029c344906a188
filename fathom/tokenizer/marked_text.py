"""Text that remembers who said each of its characters, whatever a chat template does to it.

A `Said` is a `str` with one byte a character, its voice; text that is none was said by the template, voice 0. Cutting
and joining keep the voices. Knows neither templates nor tokens.
"""

from collections.abc import Iterable, Iterator
from typing import SupportsIndex


class Said(str):
    """Text with `voices`: one byte for each character."""

    voices: bytes

    def __new__(cls, text: str, voices: bytes) -> "Said":
        self = super().__new__(cls, text)
        self.voices = voices
        return self

    def __str__(self) -> str:
        return self  # str(x) keeps the voices

    def __getitem__(self, place: SupportsIndex | slice) -> "Said":
        text = super().__getitem__(place)
        return Said(text, self.voices[place] if isinstance(place, slice) else bytes([self.voices[place]]))

    def __iter__(self) -> Iterator[str]:
        return (self[place] for place in range(len(self)))


def by(voice: int, text: str) -> Said:
    """`text`, all of it said by one voice."""
    return Said(text, bytes([voice]) * len(text))


def plain(text: str) -> str:
    """The text alone."""
    return str.__getitem__(text, slice(None))


def voices(text: str) -> bytes:
    """One byte for each character of any text."""
    return text.voices if isinstance(text, Said) else bytes(len(text))


def join(pieces: Iterable[str], between: str = "") -> Said:
    """`between.join(pieces)`."""
    texts = list(pieces)
    return Said(str.join(between, texts), voices(between).join([voices(text) for text in texts]))


def strip(text: str, characters: str | None = None) -> str:
    return lstrip(rstrip(text, characters), characters)


def lstrip(text: str, characters: str | None = None) -> str:
    return text[len(text) - len(str.lstrip(text, characters)) :]


def rstrip(text: str, characters: str | None = None) -> str:
    return text[: len(str.rstrip(text, characters))]


def removeprefix(text: str, prefix: str) -> str:
    return text[len(prefix) :] if text.startswith(prefix) else text


def removesuffix(text: str, suffix: str) -> str:
    return text[: -len(suffix)] if suffix and text.endswith(suffix) else text


def split(text: str, separator: str | None = None, maxsplit: int = -1) -> list[str]:
    return _cut(text, str.split(text, separator, maxsplit), len(separator or ""))


def rsplit(text: str, separator: str | None = None, maxsplit: int = -1) -> list[str]:
    return _cut(text, str.rsplit(text, separator, maxsplit), len(separator or ""))


def splitlines(text: str, keepends: bool = False) -> list[str]:
    return _cut(text, str.splitlines(text, keepends), 0)


def partition(text: str, separator: str) -> tuple[str, ...]:
    return tuple(_cut(text, list(str.partition(text, separator)), 0))


def rpartition(text: str, separator: str) -> tuple[str, ...]:
    return tuple(_cut(text, list(str.rpartition(text, separator)), 0))


def replace(text: str, old: str, new: str, count: int = -1) -> str:
    return join(split(text, old, count), new) if old else str.replace(text, old, new, count)


def like(text: str, changed: str) -> str:
    """`changed` is `text` in other letters: the same voices, or where there are more letters now the first one's."""
    same = len(changed) == len(text)
    return Said(changed, voices(text) if same else voices(text)[:1] * len(changed))


def _cut(text: str, pieces: list[str], gap: int) -> list[str]:
    """The same pieces, found in `text` one after the other with at least `gap` characters between them."""
    found, at = [], 0
    for piece in pieces:
        at = text.index(piece, at)  # nothing but what separates pieces lies before it
        found.append(text[at : at + len(piece)])
        at += len(piece) + gap
    return found
