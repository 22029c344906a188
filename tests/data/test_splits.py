"""A folder with files for training, validation and testing: each is used for what its name says."""

from pathlib import Path

import pytest

import fathom
from fathom.data.corpus import TEXTS, Corpus, part_of, resolve
from fathom.data.record_files import is_record_file, record_files
from fathom.data.splits import TEST, TRAIN, VAL, in_words
from fathom.errors import FathomError
from fathom.training.run import open_run
from fathom.verification.evaluate import scored_text
from tests.training.runs import recipe
from tests.training.tuning import records, tuned

LAYOUTS = {
    "files": ("train.txt", "valid.txt", "test.txt"),
    "below data": ("data/train-00000-of-00001.txt", "data/validation.txt", "data/test.md"),
    "folders": ("train/a.txt", "dev/a.txt", "test/a.txt"),
    "capitals": ("TRAIN.TXT", "Val.txt", "Testing.txt"),
}


def put(folder: Path, names: tuple[str, ...]) -> str:
    for name, text in zip(names, ("learn " * 40, "check " * 40, "final " * 40), strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "README.md").write_text("about\n")
    return str(folder)


def whole(corpus: Corpus | None) -> set[str]:
    assert corpus is not None
    return set("".join(corpus.chunks()).split())


@pytest.mark.parametrize("names", LAYOUTS.values(), ids=LAYOUTS)
def test_each_part_is_used_for_what_it_is_named(tmp_path: Path, names: tuple[str, ...]) -> None:
    folder = put(tmp_path, names)
    assert whole(resolve(folder)) == {"learn"}
    assert whole(part_of(folder, VAL)) == {"check"}
    assert whole(part_of(folder, TEST)) == {"final"} == whole(scored_text(folder))
    said = in_words(tmp_path, TEXTS)
    assert f"learns from {names[0]}, validates on {names[1]}; not read: " in said and names[2] in said


@pytest.mark.parametrize("held", ["test.txt", "valid.txt", "dev.text", "test-00000-of-00001.txt", "test/a.txt"])
def test_what_is_left_beside_a_test_part_is_for_training(tmp_path: Path, held: str) -> None:
    for name, text in (("input.txt", "learn "), (held, "check ")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text * 40)
    part = TEST if "test" in held else VAL
    assert whole(resolve(str(tmp_path))) == {"learn"} and whole(part_of(str(tmp_path), part)) == {"check"}
    assert "learns from input.txt, validates on " in in_words(tmp_path, TEXTS)


def test_records_beside_a_test_part_are_for_training(tmp_path: Path) -> None:
    records(tmp_path / "chats.jsonl")
    records(tmp_path / "test.jsonl")
    assert is_record_file(str(tmp_path))
    assert [path.name for part in (TRAIN, TEST) for path in record_files(tmp_path, part)] == [
        "chats.jsonl",
        "test.jsonl",
    ]


def test_a_folder_for_testing_alone_is_scored_and_not_learned(tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text("check")
    (tmp_path / "val.jsonl").write_text('{"text": "check"}')
    with pytest.raises(FathomError, match=r"no file to learn from, only test.txt, val.jsonl, named for validation"):
        resolve(str(tmp_path))
    assert whole(scored_text(str(tmp_path))) == {"check"}
    with pytest.raises(FathomError, match=r"no file to learn from, only val.jsonl"):
        record_files(tmp_path)


def test_without_a_part_for_training_all_files_are_one_text(tmp_path: Path) -> None:
    for name in ("testing.md", "test.md", "evaluation.md", "usage.md"):
        (tmp_path / name).write_text(name)
    assert len(list(resolve(str(tmp_path)).documents())) == 4
    assert part_of(str(tmp_path), TEST) is None and in_words(tmp_path, TEXTS) == ""


def test_a_run_learns_one_part_and_is_scored_on_another(tmp_path: Path) -> None:
    folder, small = put(tmp_path / "texts", LAYOUTS["files"]), {"max_iters": 2, "device": "cpu", "tokenizer": "byte"}
    events: list[object] = []
    run = fathom.train(recipe(tmp_path), tmp_path / "run", data=folder, report=events.append, **small).folder
    summary = open_run(run).data
    assert (summary.n_train, summary.n_val) == (240, 240)
    assert any("not read: README.md, test.txt" in str(event) for event in events)
    scored = fathom.evaluate(run, folder, device="cpu")
    assert "the test part of it" in scored.about and not scored.warning


def test_what_is_not_read_is_reported_without_a_part_for_validation_too(tmp_path: Path) -> None:
    put(tmp_path / "texts", LAYOUTS["files"])
    (tmp_path / "texts" / "valid.txt").unlink()
    events: list[object] = []
    small = {"max_iters": 1, "device": "cpu", "tokenizer": "byte", "val_fraction": 0.5}
    fathom.train(recipe(tmp_path), tmp_path / "run", data=str(tmp_path / "texts"), report=events.append, **small)
    assert any("validates on the end of it; not read: README.md, test.txt" in str(event) for event in events)


def test_a_folder_of_records_is_scored_on_its_own_part(tmp_path: Path) -> None:
    records(tmp_path / "train.jsonl")
    records(tmp_path / "test.jsonl")
    assert "test.jsonl" in fathom.evaluate(tuned(tmp_path, "run").folder, str(tmp_path), device="cpu").about
