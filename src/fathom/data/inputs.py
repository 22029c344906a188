"""What `fathom prepare` is given: files, folders, corpora and data sets of the hub, perhaps with weights.

Each becomes a source: its files in order, and their parts. Nothing is written here, and what is wrong with a call is
found here, before anything is.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fathom.data.compression import plain_suffix
from fathom.data.corpus import NAMED, TEXTS, files_of
from fathom.data.hub_dataset import Dataset, is_dataset
from fathom.data.parts import Part, Passage, check_columns, divided, passages
from fathom.data.record_files import PARQUET
from fathom.errors import FathomError

READ = (*TEXTS, PARQUET)  # what is read from a folder
SMALLEST, MOST = 4 << 20, 512  # bytes of a shard's text, at least; shards, where the text can be divided so


@dataclass(frozen=True)
class InputFile:
    """A file, and how it was when the shards were begun."""

    name: str
    size: int  # bytes
    changed: int = 0  # when it was, in nanoseconds; 0: it never is
    dataset: str = ""  # of the hub, with its revision; "": the file is on this disk

    def as_plain(self) -> list[Any]:
        return [self.name, self.size, self.changed, self.dataset]


@dataclass(frozen=True)
class Source:
    """One of the DATA that were given. weight: its share of the windows of training; None: as large as it is."""

    name: str
    weight: float | None
    files: tuple[InputFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


Piece = tuple[int, tuple[tuple[int, int, int | None], ...]]  # a source; file, start and stop of each part


def read_sources(data: Sequence[str], field: str) -> list[Source]:
    """The sources of a call. FathomError: one cannot be read, is there twice, or has no text where it is expected."""
    if not data:
        raise FathomError("no data were given; expected files, folders or a data set of the hub: fathom prepare DATA")
    sources = [_source(name, weight, field) for name, weight in map(_weighted, data)]
    bare = [source.name for source in sources if source.weight is None]
    if 0 < len(bare) < len(sources):
        raise FathomError(f"{bare[0]} has no weight, and others have; give each one, as in {bare[0]}=0.5, or none")
    seen: dict[str, str] = {}
    for source in sources:
        for file in source.files:
            place = file.dataset + (file.name if file.dataset or file.name in NAMED else str(Path(file.name).resolve()))
            if place in seen:
                raise FathomError(
                    f"{file.name} is given twice, in {seen[place]} and in {source.name}; leave one out, or"
                    " give weights to what shall be read more often"
                )
            seen[place] = source.name
    return sources


def _weighted(text: str) -> tuple[str, float | None]:
    """`a.txt=0.7` as a name and a weight; a path that exists is one whatever is in its name."""
    name, sign, number = text.rpartition("=")
    if not sign or Path(text).exists():
        return text, None
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise FathomError(f"{text}: the weight is {number!r}; expected a number above 0, as in {name or 'a.txt'}=0.7")
    return name, weight


def _source(name: str, weight: float | None, field: str) -> Source:
    if name in NAMED:
        return Source(name, weight, (InputFile(name, NAMED[name]().size),))
    if is_dataset(name):
        dataset = Dataset.find(name)
        files = tuple(InputFile(file, size, dataset=dataset.id) for file, size in dataset.files)
        return Source(name, weight, files)
    paths = files_of(name, READ)
    for path in paths:
        if plain_suffix(path) == PARQUET:
            check_columns(path, field)
    found = [(path, path.stat()) for path in paths]
    return Source(name, weight, tuple(InputFile(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in found))


def pieces_of(sources: Sequence[Source]) -> list[Piece]:
    """What becomes a shard each: parts of files, about as large as each other where files can be divided."""
    size = max(SMALLEST, sum(source.size for source in sources) // MOST)
    pieces, place = list[Piece](), 0
    for number, source in enumerate(sources):
        parts, n_bytes = list[tuple[int, int, int | None]](), 0
        for file in source.files:
            for part, more in _parts(file, size):
                if parts and n_bytes + more > size:
                    pieces.append((number, tuple(parts)))
                    parts, n_bytes = [], 0
                parts.append((place, part.start, part.stop))
                n_bytes += more
            place += 1
        if parts:
            pieces.append((number, tuple(parts)))
    return pieces


def _parts(file: InputFile, size: int) -> list[tuple[Part, int]]:
    """A file of the hub is one part: it is fetched when its turn has come."""
    whole = file.dataset or file.name in NAMED
    return [(Part(Path(file.name)), file.size)] if whole else divided(Path(file.name), size)


def alternating(sources: Sequence[Source], field: str) -> Iterator[str]:
    """The documents of all sources, one of each in turns: the text that a tokenizer is learned from."""
    streams = [_documents(source, field) for source in sources]
    while streams:
        texts = [(stream, next(stream, None)) for stream in streams]
        yield from (f"{text.text}\n" for _, text in texts if text is not None)
        streams = [stream for stream, text in texts if text is not None]


def _documents(source: Source, field: str) -> Iterator[Passage]:
    for file in source.files:
        if file.dataset:
            raise FathomError(
                f"{source.name}: a tokenizer is learned from files on this disk; give --tokenizer a file or a model"
            )
        yield from passages(Part(Path(file.name)), field)
