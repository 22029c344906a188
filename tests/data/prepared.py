"""Texts, and the files that hold them, for the tests of prepared tokens."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics

TEXTS = [topics[name] for name in sorted(topics)]  # two of them are there twice or more


def as_lines(path: Path, texts: Sequence[str], field: str = "text") -> Path:
    path.write_text("".join(json.dumps({"n": n, field: text}) + "\n" for n, text in enumerate(texts)))
    return path


def as_zstandard(path: Path, texts: Sequence[str]) -> Path:
    import zstandard

    lines = as_lines(path, texts).read_bytes()
    path.write_bytes(zstandard.compress(lines))
    return path


def as_gzip(path: Path, texts: Sequence[str]) -> Path:
    path.write_bytes(gzip.compress(as_lines(path, texts).read_bytes()))
    return path


def as_parquet(path: Path, texts: Sequence[str], group: int = 7) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"n": range(len(texts)), "text": texts}), path, row_group_size=group)
    return path
