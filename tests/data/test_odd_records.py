"""Files of records as people have them: each is read right, or refused in one line that says where and why."""

import gzip
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fathom.data.encoding import encode_file
from fathom.data.examples import to_example
from fathom.data.record_files import is_record_file, record_files
from fathom.data.records import Document, RecordFile
from fathom.data.splits import TEST, TRAIN, VAL
from fathom.errors import FathomError
from tests.data.odd_records import CALLS, RIGHT, WRONG, answer, user
from tests.tokenizer.templates import bpe


def as_lines(path: Path, records: list[Any]) -> Path:
    path = path.with_suffix(".jsonl")
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def as_list(path: Path, records: list[Any]) -> Path:
    path = path.with_suffix(".json")
    path.write_text(json.dumps(records))
    return path


def as_data(path: Path, records: list[Any]) -> Path:
    path = path.with_suffix(".json")
    path.write_text(json.dumps({"version": "1", "data": records}))
    return path


def as_gzip(path: Path, records: list[Any]) -> Path:
    path = as_lines(path, records)
    (packed := path.with_suffix(".jsonl.gz")).write_bytes(gzip.compress(path.read_bytes()))
    return packed


def as_zstandard(path: Path, records: list[Any]) -> Path:
    zstandard = pytest.importorskip("zstandard", reason="needs the extra `data`")
    data = as_lines(path, records).read_bytes()
    packed = path.with_suffix(".jsonl.zst")
    compress = zstandard.ZstdCompressor().compress
    packed.write_bytes(compress(data[:7]) + compress(data[7:]))  # two frames, as tools for many cores write them
    return packed


def as_parquet(path: Path, records: list[Any]) -> Path:
    arrow = pytest.importorskip("pyarrow", reason="needs the extra `data`")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra `data`")
    path = path.with_suffix(".parquet")
    parquet.write_table(arrow.Table.from_pylist(records), path)
    return path


FORMS = [as_lines, as_list, as_data, as_gzip, as_zstandard, as_parquet]
MIXED = ("content in parts", "ShareGPT with tools", "arguments of the template")  # no columns of one type


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("name", RIGHT)
def test_records_are_read_right(tmp_path: Path, name: str, form: Callable[[Path, list[Any]], Path]) -> None:
    records, expected = RIGHT[name]
    if form is as_parquet and name in MIXED:
        pytest.skip("a column of this table would hold two types")
    assert list(RecordFile(form(tmp_path / "it", records))) == [expected]


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line_with_file_record_and_field(tmp_path: Path, name: str) -> None:
    records, line = WRONG[name]
    for form in (as_lines, as_list, as_gzip):
        path = form(tmp_path / "it", records)
        with pytest.raises(FathomError, match=f"{path}, {line}") as caught:
            list(RecordFile(path))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", RIGHT)
def test_every_record_that_is_read_has_something_to_learn(name: str) -> None:
    record = RIGHT[name][1]
    example = to_example(record, bpe(CALLS))  # type: ignore[arg-type]
    assert (any(example.trained) and not all(example.trained[:1])) or isinstance(record, Document)
    assert example.trained[-1] or example.roles[-1] == "frame"


DAMAGED: dict[str, tuple[bytes, str]] = {
    "cut.jsonl.gz": (gzip.compress(b'{"text": "a"}\n' * 99)[:-9], "cut.jsonl.gz: its compressed data are damaged"),
    "plain.jsonl.gz": (b'{"text": "a"}\n', "plain.jsonl.gz: its compressed data are damaged"),
    "plain.jsonl.zst": (b'{"text": "a"}\n', "plain.jsonl.zst: its compressed data are damaged"),
    "empty.jsonl.gz": (gzip.compress(b""), "empty.jsonl.gz: holds no records"),
    "no.parquet": (b"PAR1 and no more", "no.parquet: damaged, or no Parquet file"),
    "data.json": (b'{"data": []}', "data.json: holds no records"),
    "other.json": (b'{"rows": [{"text": "a"}]}', "other.json, record 1: the fields are 'rows'"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_one_line(tmp_path: Path, name: str) -> None:
    needed = {"zst": "zstandard", "parquet": "pyarrow"}.get(name.rpartition(".")[2])
    if needed and importlib.util.find_spec(needed) is None:
        pytest.skip("needs the extra `data`")
    (tmp_path / name).write_bytes(DAMAGED[name][0])
    with pytest.raises(FathomError, match=DAMAGED[name][1]):
        list(RecordFile(tmp_path / name))


def test_a_cut_zstandard_file_is_damaged_and_not_shorter(tmp_path: Path) -> None:
    path = as_zstandard(tmp_path / "it", [{"text": "a" * n} for n in range(1, 500)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FathomError, match="its compressed data are damaged"):
        list(RecordFile(path))


@pytest.mark.parametrize("name, package", [("it.parquet", "pyarrow"), ("it.jsonl.zst", "zstandard")])
def test_a_package_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(FathomError, match=rf"{name}: .* needs the package {package}; pip install 'fathom-lm\[data\]'"):
        RecordFile(tmp_path / name)


GOOD = {"prompt": "a", "completion": "b"}


def test_bad_records_are_skipped_when_asked_counted_and_named(tmp_path: Path) -> None:
    path = tmp_path / "it.jsonl"
    lines = ["{broken}", *([json.dumps(GOOD)] * 97), '{"prompt": "a"}', '{"prompt": "a", "completion": 7}', "7"]
    path.write_text("\n".join(lines))
    with pytest.raises(FathomError, match=r"it.jsonl, record 1: not JSON"):
        encode_file([path], bpe(CALLS), 99, train_all=False)
    found = encode_file([path], bpe(CALLS), 99, train_all=False, on_bad="skip")
    assert len(found.examples) == 97 and found.n_skipped == 4 and found.examples[0].number == 2
    (note,) = found.notes
    assert note.startswith("skipped: 4 of 101 records cannot be used: ") and note.endswith("; ...")
    assert "it.jsonl, record 1: not JSON" in note and "it.jsonl, record 99: no field 'completion'" in note
    assert "it.jsonl, record 100: 'completion' is int" in note and "record 101" not in note


def test_more_than_one_bad_record_in_twenty_is_refused(tmp_path: Path) -> None:
    path = as_lines(tmp_path / "it", [GOOD] * 18 + [{}] * 2)
    with pytest.raises(FathomError, match=r"2 of 20 records cannot be used: .*it.jsonl, record 19: .*at most 5%"):
        encode_file([path], bpe(CALLS), 99, train_all=False, on_bad="skip")
    path = as_lines(tmp_path / "it", [GOOD] * 19 + [{}])
    assert encode_file([path], bpe(CALLS), 99, train_all=False, on_bad="skip").n_skipped == 1


def test_what_is_not_used_is_counted(tmp_path: Path) -> None:
    records = [{**GOOD, "id": n, "score": None} for n in range(5)] + [GOOD]
    (note,) = encode_file([as_lines(tmp_path / "it", records)], bpe(CALLS), 99, train_all=False).notes
    assert note == "fields that are not used: 'id' (5 of 6 records)"
    talk = [user("a"), answer("b", reasoning_content="c", mood="d")]
    path = as_lines(tmp_path / "it", [{"messages": talk, "source": "x"}])
    (note,) = encode_file([path], bpe(CALLS), 99, train_all=False).notes
    assert note == "fields that are not used: " + ", ".join(
        f"{name!r} (1 of 1 records)" for name in ("mood", "reasoning_content", "source")
    )


def test_the_shards_of_a_split_are_read_one_after_another(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number, name in enumerate(("train-00000-of-00002", "train-00001-of-00002", "validation", "test")):
        as_lines(tmp_path / "data" / name, [{"text": str(number)}])
    (tmp_path / "README.md").write_text("x")
    assert is_record_file(str(tmp_path))
    assert list(RecordFile(*record_files(tmp_path))) == [Document("0"), Document("1")]
    assert [[path.name for path in record_files(tmp_path, split)] for split in (TRAIN, VAL, TEST)] == [
        ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"],
        ["validation.jsonl"],
        ["test.jsonl"],
    ]
    assert not is_record_file(str(tmp_path / "data" / ".." / "README.md")) and not is_record_file(str(tmp_path.parent))
