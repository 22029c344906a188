"""Text that remembers the speaker of each character, whatever a chat template does to it.

A `MarkedText` is a `str` with one byte a character, the number of its speaker. Any other text is the template's own,
speaker 0. What is cut or joined here gives what `str` gives, and every character keeps its speaker.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, SupportsIndex

from fathom.errors import FathomError

MAX_NESTING = 64  # lists and objects within one another
TOO_DEEP = f"lists and objects are nested deeper than {MAX_NESTING}; expected plain values"


class MarkedText(str):
    """Text with `speakers`: one byte for each character."""

    speakers: bytes

    def __new__(cls, text: str, speakers: bytes) -> "MarkedText":
        self = super().__new__(cls, text)
        self.speakers = speakers
        return self

    def __str__(self) -> str:
        return self  # str(x) keeps the speakers

    def __getitem__(self, place: SupportsIndex | slice) -> "MarkedText":
        text = super().__getitem__(place)
        return MarkedText(text, self.speakers[place] if isinstance(place, slice) else bytes([self.speakers[place]]))

    def __iter__(self) -> Iterator[str]:
        return (self[place] for place in range(len(self)))


class SafeText(MarkedText):
    """What Jinja's `safe` makes: what is added to it with + is escaped for HTML, as in the reference."""


def escaped(text: str) -> str:
    """`text` as HTML writes it, unless it is safe already."""
    if not isinstance(text, SafeText):
        for sign, name in ("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("'", "&#39;"), ('"', "&#34;"):
            text = replace(text, sign, name)
    return text


def mark(text: str, speaker: int) -> MarkedText:
    """`text`, all of it of one speaker."""
    return MarkedText(text, bytes([speaker]) * len(text))


def marked(value: Any, speaker: int, depth: int = 0) -> Any:
    """Plain JSON values in which each text is of one speaker; names of fields are too."""
    if depth > MAX_NESTING:
        raise FathomError(TOO_DEEP)
    match value:
        case str():
            return mark(value, speaker)
        case list() | tuple():
            return [marked(entry, speaker, depth + 1) for entry in value]
        case Mapping():
            return {mark(str(name), speaker): marked(entry, speaker, depth + 1) for name, entry in value.items()}
    return value


def speaker_in(value: Any) -> int:
    """The speaker of what is said in plain JSON values; of several, the last in number."""
    return max((max(speakers_of(text), default=0) for text in texts_in(value)), default=0)


def texts_in(value: object) -> Iterator[str]:
    """Every text within lists and objects, the names of fields too. FathomError: they are nested too deeply."""
    waiting = [(value, 0)]
    while waiting:
        value, depth = waiting.pop()
        entries: list[object] = []
        match value:
            case str():
                yield value
            case Mapping():
                entries = [*value, *value.values()]
            case list() | tuple():
                entries = [*value]
        if entries and depth == MAX_NESTING:
            raise FathomError(TOO_DEEP)
        waiting += [(entry, depth + 1) for entry in entries]


def unmarked(text: str) -> str:
    """The text alone."""
    return str.__getitem__(text, slice(None))


def speakers_of(text: str) -> bytes:
    """One byte for each character of any text."""
    return text.speakers if isinstance(text, MarkedText) else bytes(len(text))


def join(parts: Iterable[str], between: str = "") -> MarkedText:
    """`between.join(parts)`."""
    texts = list(parts)
    return MarkedText(str.join(between, texts), speakers_of(between).join([speakers_of(text) for text in texts]))


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


def recased(text: str, changed: str) -> str:
    """`changed` is `text` in another case: it has the same speakers, or where its length differs, the first one's."""
    same = len(changed) == len(text)
    return MarkedText(changed, speakers_of(text) if same else speakers_of(text)[:1] * len(changed))


def _cut(text: str, parts: list[str], gap: int) -> list[str]:
    """The parts as slices of `text`: they follow one another with at least `gap` characters between them."""
    slices, at = [], 0
    for part in parts:
        at = text.index(part, at)  # nothing but separators lies before it
        slices.append(text[at : at + len(part)])
        at += len(part) + gap
    return slices
