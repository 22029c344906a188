"""Parts of files that are tokenised on their own, and the documents in them.

A line of JSON lines, and a group of rows of Parquet, belongs to the part in which it begins. A plain text is one
document; it is read in stretches of about STRETCH bytes, which end at line ends, and a part holds whole stretches.
Where they end hangs on the text nearby alone, not on how the file was divided or compressed.
"""

import codecs
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fathom.data.compression import COMPRESSED, opened, plain_suffix
from fathom.data.corpus import NAMED
from fathom.data.record_files import PARQUET, entries, parquet_about, parquet_rows
from fathom.data.text import MAX_LINE, decoded, document, is_json_lines, json_lines, text_field
from fathom.errors import FathomError, near

STRETCH = 1 << 14  # bytes
LINE_END = re.compile(rb"\n(?=\S)")  # before a letter GPT-2's words end, so that the tokens are those of the whole text


class Passage(NamedTuple):
    """A document, or a stretch of one."""

    text: str
    ends: bool = True  # whether the document ends with it


@dataclass(frozen=True)
class Part:
    """Bytes of a text, or groups of rows of a Parquet file, from `start` to before `stop`; None: to the end."""

    path: Path
    start: int = 0
    stop: int | None = None


def divided(path: Path, size: int) -> list[tuple[Part, int]]:
    """The parts of a file, and about how many bytes each has: `size`, where the file can be divided."""
    if plain_suffix(path) == PARQUET:
        return _row_groups(path, size)
    n_bytes = path.stat().st_size
    if path.suffix.lower() in COMPRESSED or plain_suffix(path) == ".json" or n_bytes < 2 * size:
        return [(Part(path), n_bytes)]
    size = -(-size // STRETCH) * STRETCH
    starts = [*range(0, n_bytes - size + 1, size)]
    ends: list[int | None] = [*starts[1:], None]
    return [(Part(path, start, stop), (stop or n_bytes) - start) for start, stop in zip(starts, ends)]


def _row_groups(path: Path, size: int) -> list[tuple[Part, int]]:
    parts, start, n_bytes = list[tuple[Part, int]](), 0, 0
    sizes = parquet_about(path).sizes
    for group, more in enumerate(sizes, 1):
        n_bytes += more
        if n_bytes >= size or group == len(sizes):
            parts.append((Part(path, start, group), n_bytes))
            start, n_bytes = group, 0
    return parts


def check_columns(path: Path, field: str) -> None:
    """FathomError: a Parquet file has no column of this name."""
    columns = parquet_about(path).columns
    if field not in columns:
        raise FathomError(
            f"{path}: no column {field!r}; its columns are {', '.join(columns) or 'none'}{near(field, columns)}; name"
            " the one that holds the text with --field NAME"
        )


def passages(part: Part, field: str) -> Iterator[Passage]:
    """The documents of a part, in order; `field`: which one of a record or a row holds the text.

    Memory is bounded by the longest record. FathomError names the file and the place.
    """
    path = part.path
    if str(path) in NAMED:
        for chunks in NAMED[str(path)]().documents(STRETCH):
            yield Passage("".join(chunks))
    elif plain_suffix(path) == PARQUET:
        check_columns(path, field)
        groups = None if part.stop is None else range(part.start, part.stop)
        for entry in parquet_rows(path, [field], groups):
            if field in (row := entry.values()):  # null is no text
                yield Passage(text_field(row, field, entry.where))
    elif plain_suffix(path) == ".json":
        for entry in entries(path):
            yield Passage(document(entry.values(), field, entry.where))
    elif is_json_lines(path):
        yield from _records(part, field)
    else:
        yield from _stretches(part)


def following(part: Part) -> Passage | None:
    """The stretch after a part that ends inside a document."""
    return None if part.stop is None else next(_stretches(Part(part.path, part.stop)), None)


def _records(part: Part, field: str) -> Iterator[Passage]:
    path, start = part.path, part.start
    try:
        with opened(path) as file:
            if start:
                file.seek(start - 1)
                while (skipped := file.readline(MAX_LINE)) and not skipped.endswith(b"\n"):
                    pass
            for number, line in json_lines(path, file, part.stop):
                yield Passage(document(line, field, f"{path}, line {number}"))
    except FathomError as problem:
        if not start:
            raise
        before = _lines_before(path, start)  # counted where it is needed: the file may be large
        place = re.compile(rf"(?<={re.escape(str(path))}, line )\d+")
        raise FathomError(place.sub(lambda match: str(int(match[0]) + before), str(problem), count=1)) from None


def _lines_before(path: Path, place: int) -> int:
    """How many lines of a file begin before this byte."""
    count, last = 0, b"\n"
    with path.open("rb") as file:
        while place > 0 and (block := file.read(min(place, 1 << 20))):
            count, last, place = count + block.count(b"\n"), block[-1:], place - len(block)
    return count + (last != b"\n")


def _stretches(part: Part) -> Iterator[Passage]:
    """The stretches that begin in a part. Number n of a file begins at the first line end after byte n * STRETCH."""
    place = part.start
    with opened(part.path) as file:
        if place:
            file.seek(place)
        data = file.read(2 * STRETCH + 4)  # from `place` on; 4: a letter more, to know what follows a line end
        begin = _cut(data[: STRETCH + 4]) if place else 0
        while data[begin:]:
            end = STRETCH + _cut(data[STRETCH:]) if len(data) > STRETCH else len(data)
            if end > begin and (text := _text(data[begin:end], part.path, place + begin)):
                yield Passage(text, ends=end == len(data))
            place += STRETCH
            if end == len(data) or (part.stop is not None and place >= part.stop):
                return
            begin, data = end - STRETCH, data[STRETCH:] + file.read(STRETCH)


def _cut(data: bytes) -> int:
    """Where these bytes are best cut: after a line, where there is one; else before a character."""
    for found in (LINE_END.search(data), re.search(rb"\n", data)):
        if found and found.end() <= STRETCH:
            return found.end()
    return next((i for i, byte in enumerate(data[:4]) if byte & 0xC0 != 0x80), 0)


def _text(data: bytes, path: Path, place: int) -> str:
    """The bytes from `place` of a file on as text, as training reads it."""
    name = "utf-8" if place else "utf-8-sig"
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(name)("strict"), translate=True)
    end = place + len(data)
    return decoded(decoder, data, path, end) + decoded(decoder, b"", path, end)
