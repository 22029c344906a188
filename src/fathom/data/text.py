"""Text and JSON lines from files, read strictly and as a stream: UTF-8, or an error with the place.

A byte order mark is dropped and every line end becomes a newline. Memory is bounded by `max_chars` and, in JSON
lines, by the longest line. Files that end in .gz or .zst are decompressed as they are read.
"""

import codecs
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fathom.data.compression import opened, plain_suffix
from fathom.errors import FathomError, near
from fathom.tokenizer.protocol import slices
from fathom.tokenizer.typed import uniform

JSON_LINES = (".jsonl", ".ndjson", ".json-lines")
MAX_LINE = 64 << 20  # bytes of one JSON line
HALF_A_PAIR = re.compile("[\ud800-\udfff]")
BLANK = codecs.BOM_UTF8 + b" \t\r\n"
BINARY = "a binary file or UTF-16: give another file, or convert it (such as iconv -f UTF-16 -t UTF-8)"

NO_TEXT = {  # how files begin that are taken for texts: what to do with them
    b"%PDF": "it is a PDF: extract its text first (such as pdftotext)",
    b"PK\3\4": "it is a zip archive, as .docx and .epub files are: unpack it, or save it as plain text",
    b"\x1f\x8b": "it is compressed by gzip: give its name the ending .gz",
    b"GGUF": "it is a model in GGUF: give a text",
    b"PAR1": "it is a Parquet file: fathom prepare makes tokens of it, which --data takes",
}


def is_json_lines(path: Path) -> bool:
    """Whether a file holds JSON lines, by its name."""
    return plain_suffix(path) in JSON_LINES


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
                yield from filter(None, [decoded(decoder, block, self.path, end)])
        yield from filter(None, [decoded(decoder, b"", self.path, end)])


@dataclass(frozen=True)
class JSONLines(TextFile):
    """A file with one JSON object per line, each with a document under "text"."""

    def documents(self, max_chars: int) -> Iterator[Iterator[str]]:
        with opened(self.path) as file:
            for number, line in json_lines(self.path, file):
                if text := document(line, "text", f"{self.path}, line {number}"):
                    yield slices(text, max_chars)


def document(line: Any, field: str, where: str) -> str:
    """The text in a field of a record: a line of JSON, or its value."""
    values = parse_json(line, where) if isinstance(line, bytes) else line
    if not isinstance(values, dict):
        raise FathomError(f'{where}: {type(values).__name__}; expected an object, {{"{field}": "..."}}')
    if field not in values:
        fields = ", ".join(map(repr, values)) or "no field at all"
        raise FathomError(f"{where}: no field {field!r}, found {fields}{near(field, values)}")
    return text_field(values, field, where)


def json_lines(path: Path, file: BinaryIO, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
    """(its number from 1, the line) of each line that is not blank and begins before the byte `stop`."""
    number = 0
    while (stop is None or file.tell() < stop) and (line := file.readline(MAX_LINE)):
        number += 1
        if len(line) == MAX_LINE:
            raise FathomError(
                f"{path}, line {number}: longer than {MAX_LINE >> 20} MiB; expected one record a line; split it"
            )
        if line.strip(BLANK):
            yield number, line


def parse_json(data: bytes | str, where: str) -> Any:
    """The value of a text in JSON. FathomError, which begins with `where`, also for an object with a field twice."""
    try:
        return json.loads(data.decode("utf-8-sig") if isinstance(data, bytes) else data, object_pairs_hook=_once)
    except UnicodeDecodeError as problem:
        utf16 = problem.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        do = "it looks like UTF-16: convert it (iconv -f UTF-16 -t UTF-8)" if utf16 else "save the file as UTF-8"
        raise FathomError(f"{where}: not UTF-8 at byte {problem.start}; {do}") from None
    except (ValueError, RecursionError) as problem:
        raise FathomError(f"{where}: not JSON ({problem}); expected an object with fields") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose fields are each there once: of two values, one would be lost without a word."""
    values = dict(pairs)
    if len(values) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the field {name[:80]!r} is there twice")
    return values


def text_field(values: Mapping[str, Any], field: str, where: str) -> str:
    """The text of a field of a JSON object, as training reads text."""
    text = values[field]
    if not isinstance(text, str):
        raise FathomError(f"{where}: {field!r} is {type(text).__name__}; expected text")
    if HALF_A_PAIR.search(text):
        raise FathomError(f"{where}: half a surrogate pair (\\ud800 to \\udfff) in {field!r}; expected valid Unicode")
    return uniform(text)


def decoded(decoder: io.IncrementalNewlineDecoder, block: bytes, path: Path, end: int) -> str:
    """`block`, which ends at byte `end` of the file, as text; an empty block is the end of the file."""
    try:
        text = decoder.decode(block, final=not block)
    except UnicodeDecodeError as problem:
        place = end - len(problem.object) + problem.start
        binary = b"\0" in problem.object
        do = f"it looks like {BINARY}" if binary else "convert it to UTF-8 (such as iconv -f LATIN1 -t UTF-8)"
        do = _known(path) or do
        raise FathomError(
            f"{path}: byte {place} is 0x{problem.object[problem.start]:02x}; expected text in UTF-8; {do}"
        ) from None
    if "\0" in text:
        raise FathomError(
            f"{path}: holds a zero byte; expected text in UTF-8; {_known(path) or f'it looks like {BINARY}'}"
        )
    return text


def _known(path: Path) -> str:
    """What to do with a file that begins as no text does; empty where that is not known."""
    with path.open("rb") as file:
        begins = file.read(4)
    return next((do for magic, do in NO_TEXT.items() if begins.startswith(magic)), "")
