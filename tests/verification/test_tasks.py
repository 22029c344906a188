"""`fathom eval --tasks` gives the scores of lm-eval with its own backend, and says in one line what is wrong."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import fathom
from fathom.cli.main import main
from fathom.errors import FathomError
from fathom.tokenizer.characters import ByteTokenizer
from tests.cli.models import model_folder
from tests.extras import extra

extra("lm_eval", "eval")
from tests.verification import harness_models  # noqa: E402

TASKS = ["local_choices", "local_texts", "local_answers"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any) -> Path:
    """A folder with tasks, and a model of bytes with random weights."""
    place = tmp_path_factory.mktemp("place")
    harness_models.write_tasks(place / "tasks")
    model_folder(place / "model", ByteTokenizer())
    return Path(place)


@pytest.mark.parametrize("shots", [None, 2])
def test_scores_are_those_of_the_other_backend(shots: int | None, shared_data: Path, place: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    if not (folder := place / "stories").exists():
        harness_models.stories(shared_data, folder)
    manager = TaskManager(include_path=str(place / "tasks"), include_defaults=False)
    theirs = HFLM(str(folder), device="cpu", dtype="float32", batch_size=4)
    expected = simple_evaluate(theirs, tasks=TASKS, num_fewshot=shots, task_manager=manager, limit=5)
    found = fathom.evaluate_tasks(
        folder, TASKS, num_fewshot=shots, include_path=str(place / "tasks"), limit=5, dtype="fp32", device="cpu"
    )
    compared = 0
    for figure in found.figures:
        metric, _, filtered = figure.metric.partition(",")
        key = f"{metric},{filtered or 'none'}"
        assert figure.values["float"] == pytest.approx(expected["results"][figure.task][key], rel=1e-6)
        error = expected["results"][figure.task][key.replace(",", "_stderr,")]
        assert figure.errors["float"] == (None if error == "N/A" else pytest.approx(error, rel=1e-6))
        assert figure.shots == expected["n-shot"][figure.task] == (shots or 0)
        compared += 1
    assert compared == 6 and dict(found.samples) == {"local_choices": 5, "local_texts": 3, "local_answers": 5}


def call(place: Path, *words: str, model: str = "model") -> int:
    return main(["eval", str(place / model), "--device", "cpu", *words])


def test_the_command_prints_a_table_and_json(
    place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    words = ["--tasks", "local_choices,local_texts", "--include-path", str(place / "tasks"), "--limit", "3"]
    assert call(place, *words, "--quantize", "int8", "--json", "--batch-size", "2", "--num-fewshot", "1") == 0
    out, err = capfd.readouterr()
    values = json.loads(out)
    assert len(values["figures"]) == 5 and values["samples"] == {"local_choices": 3, "local_texts": 3}
    for figure in values["figures"]:
        assert set(figure["values"]) == {"float", "int8"} and figure["task"] in err
    bits = next(f["values"] for f in values["figures"] if f["metric"] == "bits_per_byte")
    assert bits["float"] != bits["int8"] == pytest.approx(bits["float"], rel=0.05)
    assert "8 questions" not in err and "6 questions as plain text" in err


def test_a_pattern_and_a_file_name_tasks(place: Path) -> None:
    given = {"include_path": str(place / "tasks"), "limit": 2, "device": "cpu"}
    by_file = fathom.evaluate_tasks(place / "model", str(place / "tasks" / "choices.yaml"), limit=2, device="cpu")
    by_name = fathom.evaluate_tasks(place / "model", "local_choices", **given)
    assert by_file["local_choices"] == by_name["local_choices"]
    with pytest.raises(FathomError, match="no scores of 'local_texts'; tasks are local_choices"):
        by_name["local_texts"]


WRONG = {
    "--tasks local_choice --include-path {tasks}": ("no task 'local_choice'", "did you mean local_choices"),
    "--tasks local_choices, --include-path {tasks}": ("--tasks has an empty name", "such as hellaswag"),
    "--tasks local_choices --include-path gone": ("--include-path is gone", "give one that holds YAML"),
    "--tasks far --include-path {tasks}": ("cannot be loaded", "unless the task names local files"),
    "--tasks local_choices --data a.txt": ("--data was given with --tasks", "choose one of the two"),
    "--tasks local_choices --windows 3": ("--windows was given with --tasks", "choose one of the two"),
    "--num-fewshot 3": ("--num-fewshot was given without --tasks", "leave it out"),
    "--apply-chat-template": ("--apply-chat-template was given without --tasks", "leave it out"),
    "--tasks local_choices --limit 1.5": ("limit is 1.5", "expected a whole number, or a share"),
    "--tasks local_choices --num-fewshot -1": ("num_fewshot is -1", "expected 0 or more"),
    "--tasks local_choices --batch-size 0": ("batch_size is 0", "expected at least 1"),
    "--tasks local_answers --include-path {tasks} --apply-chat-template": ("has no chat template", "leave"),
    "--tasks endless --include-path {tasks}": ("asks for 5,000 new tokens; the model's context is 400", "max_gen_toks"),
    "--tasks beams --include-path {tasks}": ("asks to generate with num_beams=4", "supported are temperature"),
}


@pytest.mark.parametrize("words", WRONG)
def test_one_line_says_what_is_wrong(words: str, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    answers = json.loads((place / "tasks" / "answers.yaml").read_text())
    for name, kwargs in {"endless": {"max_gen_toks": 5000}, "beams": {"num_beams": 4}}.items():
        harness_models.write_task(
            place / "tasks" / f"{name}.yaml", **{**answers, "task": name, "generation_kwargs": kwargs}
        )
    gone = {"data_files": {"test": str(place / "gone.jsonl")}}
    harness_models.write_task(place / "tasks" / "far.yaml", **{**answers, "task": "far", "dataset_kwargs": gone})
    assert call(place, *words.format(tasks=place / "tasks").split()) == 2
    out, err = capfd.readouterr()
    found, to_do = WRONG[words]
    assert out == "" and err.startswith("fathom: ") and err.count("\n") == 1 and found in err and to_do in err, err
    assert "this is a bug" not in err


def test_a_model_without_a_tokenizer_is_refused(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bare = model_folder(place / "bare", ByteTokenizer())
    (bare / "tokenizer.json").unlink()
    assert call(place, "--tasks", "local_choices", "--include-path", str(place / "tasks"), model="bare") == 2
    assert "tokenizer" in capfd.readouterr().err


def test_without_the_package_one_line_says_how_to_get_it(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    assert call(place, "--tasks", "local_choices") == 2
    assert "pip install 'fathom-lm[eval]'" in capfd.readouterr().err
