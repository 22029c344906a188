"""Files of records: JSON lines, a JSON list, an object whose "data" is one, or Parquet; and the splits in a folder.

JSON lines and Parquet are read as a stream, a JSON list is read whole. An entry is not looked at until it is asked for
its values, so that one that is damaged does not end the reading of the others.
"""

import codecs
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from fathom.data.compression import opened, plain_suffix, require_undamaged
from fathom.data.splits import TRAIN, splits, to_learn
from fathom.data.text import BLANK, JSON_LINES, MAX_LINE, json_lines, parse_json
from fathom.errors import FathomError

Values = Mapping[str, Any]
PARQUET = ".parquet"
SUFFIXES = (".json", *JSON_LINES, PARQUET)  # other files are plain text
MAX_BYTES = 1 << 30  # of a file that has to be read whole
ROWS = 256  # of a Parquet file that are read at a time
BUFFER = 1 << 20  # bytes of each column that are read at a time


@dataclass(frozen=True)
class Entry:
    """A record as it stands in its file."""

    where: str  # file and record, for errors
    raw: Any  # a line of JSON as bytes, or the value itself
    path: Path | None = None  # of a line, whose file may be compressed

    def values(self) -> Values:
        """The fields of the record. FathomError: it is not an object, or its file is damaged."""
        try:
            values = parse_json(self.raw, self.where) if isinstance(self.raw, bytes) else self.raw
        except FathomError:
            if self.path is not None:
                require_undamaged(self.path)
            raise
        if not isinstance(values, dict):
            kind = "null" if values is None else type(values).__name__
            raise FathomError(f"{self.where}: {kind}; expected an object with fields")
        return values


def is_record_file(data: str) -> bool:
    """Whether the data are records, and not plain text: by the name of the file, or by those of a folder's splits."""
    path = Path(data)
    return bool(splits(path, SUFFIXES)) if path.is_dir() else plain_suffix(path) in SUFFIXES and "://" not in data


def record_files(data: str | Path, split: str = TRAIN) -> list[Path]:
    """The file itself, or those of a folder's split: none where the folder has no such split.

    FathomError: a folder has files for validation or testing alone, and those for training are asked for.
    """
    path = Path(data)
    if not path.is_dir():
        return [path]
    return to_learn(path, SUFFIXES) if split == TRAIN else splits(path, SUFFIXES).get(split, [])


def entries(path: Path) -> Iterator[Entry]:
    """The records of a file. One of JSON that begins with `[`, or with an unfinished line, is read whole."""
    if plain_suffix(path) == PARQUET:
        yield from parquet_rows(path)
        return
    with opened(path) as file:
        line = file.readline(MAX_LINE)
        while line and not line.strip(BLANK):
            line = file.readline(MAX_LINE)
    whole = line.lstrip(BLANK).startswith(b"[") or not _is_one_record(line)
    if whole and line:
        found = _json_list(path)
        if found is not None:
            yield from found
            return
    with opened(path) as file:  # again: compressed data cannot be read twice
        for place, (number, line) in enumerate(json_lines(path, file), 1):
            at = "" if number == place else f" (line {number})"
            yield Entry(f"{path}, record {place}{at}", line, path)


def _is_one_record(line: bytes) -> bool:
    """Whether a file's first line is an object of its own, and not one that holds the records."""
    try:
        return _listed(parse_json(line, "")) is None
    except FathomError:
        return b'"data"' not in line[:200] and line.rstrip(BLANK).endswith(b"}")  # a damaged record among others


def _listed(values: Any) -> list[Any] | None:
    """The records in an object such as {"data": [...]}; None: it is a record itself."""
    listed = values.get("data") if isinstance(values, dict) else None
    holds = isinstance(listed, list) and (not listed or any(isinstance(entry, dict) for entry in listed))
    return listed if holds else None


def _json_list(path: Path) -> list[Entry] | None:
    """The records of a file that is one value of JSON; None: it is not, and its name says that each line is one."""
    with opened(path) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise FathomError(f"{path}: a JSON list larger than {MAX_BYTES >> 30} GiB; write it as JSON lines")
    try:
        values = parse_json(data, str(path))
    except FathomError:
        starts = data.lstrip(BLANK)
        if plain_suffix(path) in JSON_LINES and not starts.startswith((b"[", codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return None
        raise
    listed = values if isinstance(values, list) else _listed(values)
    return [Entry(f"{path}, record {n}", entry) for n, entry in enumerate([values] if listed is None else listed, 1)]


@dataclass(frozen=True)
class ParquetAbout:
    """What the end of a Parquet file says."""

    columns: tuple[str, ...]
    sizes: tuple[int, ...]  # bytes of each group of rows, not compressed


def parquet_about(path: Path) -> ParquetAbout:
    with _parquet(path) as table:
        groups = range(table.metadata.num_row_groups)
        sizes = tuple(table.metadata.row_group(group).total_byte_size for group in groups)
        return ParquetAbout(tuple(table.schema_arrow.names), sizes)


def parquet_rows(path: Path, columns: list[str] | None = None, groups: range | None = None) -> Iterator[Entry]:
    """The rows of a Parquet file: all, or only some columns of some groups of rows."""
    with _parquet(path) as table:
        groups = range(table.metadata.num_row_groups) if groups is None else groups
        number = sum(table.metadata.row_group(group).num_rows for group in range(groups.start))
        chosen = {"row_groups": list(groups), "columns": columns, "use_threads": columns is None}
        for batch in table.iter_batches(batch_size=ROWS, **chosen):
            for row in batch.to_pylist():
                number += 1
                yield Entry(f"{path}, record {number}", without_nulls(row))


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    """A Parquet file, of which a part of a group of rows is read at a time. FathomError: it is damaged."""
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise FathomError(f"{path}: .parquet needs the package pyarrow; pip install 'fathom-lm[data]'") from None
    try:
        with parquet.ParquetFile(path, buffer_size=BUFFER) as table:
            yield table
    except (arrow.ArrowException, UnicodeDecodeError) as problem:  # before OSError: some are both
        raise FathomError(f"{path}: damaged, or no Parquet file ({str(problem)[:200]})") from None
    except OSError as problem:
        raise FathomError(f"{path}: cannot be read ({problem.strerror or problem})") from None


def without_nulls(value: Any) -> Any:
    """The value without fields that are null: a table writes null where an object has no such field."""
    match value:
        case dict():
            return {name: without_nulls(entry) for name, entry in value.items() if entry is not None}
        case list():
            return [without_nulls(entry) for entry in value]
    return value
