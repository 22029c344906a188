"""What becomes of records in a run: splits of a folder, records that are skipped, fields that are not used."""

import json
from pathlib import Path

import pytest

from fathom.data.packing import ExampleFile
from fathom.errors import FathomError
from fathom.tokenizer.characters import ByteTokenizer
from fathom.training.data import FinetuneDataSummary, prepare
from fathom.training.events import Event, Note
from fathom.training.options import FinetuneOptions, TrainOptions
from tests.training.tuning import records


def prepared(data: Path, out: Path, **tuning: object) -> tuple[FinetuneDataSummary, list[str]]:
    notes: list[str] = []

    def listen(event: Event) -> None:
        notes.extend([event.text] if isinstance(event, Note) else [])

    options = FinetuneOptions(**tuning)  # type: ignore[arg-type]
    return prepare(out, ByteTokenizer(), TrainOptions(data=str(data)), options, 48, listen), notes


def test_a_folder_validates_on_its_own_split(tmp_path: Path) -> None:
    (folder := tmp_path / "data").mkdir()
    records(folder / "train.jsonl", 20)
    records(folder / "valid.jsonl", 7)
    records(folder / "test.jsonl", 5)
    summary, notes = prepared(folder, tmp_path / "out")
    assert (summary.n_examples, summary.n_val_rows, notes) == (27, 7, [])
    summary, _ = prepared(folder, tmp_path / "other", val_data=str(records(tmp_path / "it.jsonl", 3)))
    assert (summary.n_examples, summary.n_val_rows) == (23, 3)


def test_a_bad_record_stops_or_is_skipped(tmp_path: Path) -> None:
    path = records(tmp_path / "it.jsonl", 40)
    path.write_text(path.read_text() + "\n" + json.dumps({"prompt": "a", "completion": 7, "id": 1}))
    with pytest.raises(FathomError, match=r"it\.jsonl, record 41: 'completion' is int"):
        prepared(path, tmp_path / "stopped")
    summary, (note,) = prepared(path, tmp_path / "out", on_bad_record="skip")
    assert (summary.n_skipped, summary.n_examples) == (1, 40)
    assert note.startswith("skipped: 1 of 41 records cannot be used: ") and "record 41: 'completion' is int" in note


def test_fields_that_are_not_used_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "it.jsonl"
    path.write_text("".join(json.dumps({"prompt": "a", "completion": str(n), "id": n}) + "\n" for n in range(9)))
    _, notes = prepared(path, tmp_path / "out")
    assert notes == ["fields that are not used: 'id' (9 of 9 records)"]


def test_weight_0_is_not_learned_where_all_of_a_record_is(tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "wrong", "weight": 0},
        {"role": "assistant", "content": "right"},
    ]
    path = tmp_path / "it.jsonl"
    path.write_text((json.dumps({"messages": messages}) + "\n") * 2)
    prepared(path, tmp_path / "out", mask_prompt=False)
    example = ExampleFile(tmp_path / "out" / "train", 256)[0]
    learned = bytes(int(id) for id, trained in zip(example.ids, example.trained) if trained)
    assert b"Hello" in learned and b"right" in learned and b"wrong" not in learned
