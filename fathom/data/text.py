"""Reading text files strictly, as a stream: UTF-8 or one line that says where it is not.

A byte order mark is dropped and every line end becomes a newline. Memory is bounded by `max_chars` and, in JSON
lines, by the longest line. Knows no tokenizer.
"""

import codecs
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fathom.errors import FathomError, near

LONGEST_LINE = 64 << 20  # bytes of one JSON line
BINARY = "a binary file or UTF-16: give another file, or convert it (such as iconv -f UTF-16 -t UTF-8)"


@dataclass(frozen=True)
class TextFile:
    """A file that is one document."""

    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def documents(self, max_chars: int) -> Iterator[Iterator[str]]:
        yield self._chunks(max_chars)

    def _chunks(self, max_chars: int) -> Iterator[str]:
        decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")("strict"), translate=True)
        end = 0
        with opened(self.path) as file:
            while block := file.read(max_chars):  # a character takes at least one byte
                end += len(block)
                yield from filter(None, [_decoded(decoder, block, self.path, end)])
        yield from filter(None, [_decoded(decoder, b"", self.path, end)])


@dataclass(frozen=True)
class JSONLines:
    """A file with one JSON object per line, each with its document under "text"."""

    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def documents(self, max_chars: int) -> Iterator[Iterator[str]]:
        with opened(self.path) as file:
            number = 0
            while line := file.readline(LONGEST_LINE):
                number += 1
                text = _text_of(line, f"{self.path}, line {number}") if line.strip() else ""
                if text:
                    yield (text[i : i + max_chars] for i in range(0, len(text), max_chars))


def _text_of(line: bytes, where: str) -> str:
    """The document in one line of JSON."""
    if len(line) == LONGEST_LINE:
        raise FathomError(f"{where}: longer than {LONGEST_LINE >> 20} MiB; expected one document a line; split it")
    try:
        values = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as problem:
        raise FathomError(f"{where}: not UTF-8 at byte {problem.start} of the line; save the file as UTF-8") from None
    except (ValueError, RecursionError) as problem:
        raise FathomError(f'{where}: not JSON ({problem}); expected one object a line, {{"text": "..."}}') from None
    if not isinstance(values, dict):
        raise FathomError(f'{where}: {type(values).__name__}; expected an object, {{"text": "..."}}')
    if "text" not in values:
        fields = ", ".join(map(repr, values)) or "no field at all"
        raise FathomError(f"{where}: no field 'text', found {fields}{near('text', values)}")
    text = values["text"]
    if not isinstance(text, str):
        raise FathomError(f"{where}: 'text' is {type(text).__name__}; expected a string")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise FathomError(f"{where}: half a surrogate pair (\\ud800 to \\udfff) in 'text'; expected valid Unicode")
    return text.replace("\r\n", "\n").replace("\r", "\n")


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as problem:
        raise FathomError(f"{path}: cannot be read ({problem.strerror or problem})") from problem


def _decoded(decoder: io.IncrementalNewlineDecoder, block: bytes, path: Path, end: int) -> str:
    """`block`, which ends at byte `end` of the file, as text; an empty block is the end of the file."""
    try:
        text = decoder.decode(block, final=not block)
    except UnicodeDecodeError as problem:
        place = end - len(problem.object) + problem.start
        binary = b"\0" in problem.object
        do = f"it looks like {BINARY}" if binary else "convert it to UTF-8 (such as iconv -f LATIN1 -t UTF-8)"
        raise FathomError(
            f"{path}: byte {place} is 0x{problem.object[problem.start]:02x}; expected text in UTF-8; {do}"
        ) from None
    if "\0" in text:
        raise FathomError(f"{path}: holds a zero byte; expected text in UTF-8; it looks like {BINARY}")
    return text
