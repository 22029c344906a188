"""A run as it is recorded: divergence ends it, answers before and after, pictures that are renewed, a steady length."""

import io
from pathlib import Path
from random import Random

import pytest
from rich.console import Console

from fathom.cli.main import main
from fathom.errors import Diverged
from fathom.formats.checkpoint import steps
from fathom.report.live import LiveView
from fathom.training import record as record_module
from fathom.training.events import Event, Note, Progress, Sample, read_metrics
from fathom.training.options import TrainOptions
from fathom.training.session import Length, rounded
from fathom.training.train import train
from tests.training.runs import TEXT, recipe
from tests.training.tuning import tuned


def test_a_run_that_diverges_ends_with_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    call = [
        "train",
        "shakespeare-cpu",
        "--data",
        str(tmp_path / "text.txt"),
        "-o",
        str(tmp_path / "run"),
        "--lr",
        "100",
    ]
    call += ["--model.d-model", "16", "--model.n-layer", "1", "--model.n-head", "2", "--context-length", "16"]
    call += ["--max-iters", "40", "--eval-interval", "10", "--train.warmup-steps", "0", "--device", "cpu"]
    assert main(call) == 1
    assert "fathom: diverged: the validation loss at step" in capsys.readouterr().err
    assert (tmp_path / "run" / "loss.png").exists()
    assert main([*call, "--keep-going", "--overwrite"]) == 0
    assert "warning: diverged" in capsys.readouterr().err


def test_divergence_keeps_what_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fourth evaluation on, the model is a wreck."""
    calls: list[float] = []

    def evaluate(*rest: object) -> float:
        calls.append(0.0)
        return 2.5 if len(calls) < 4 else 99.0

    monkeypatch.setattr("fathom.training.loop.evaluate", evaluate)
    monkeypatch.setattr("fathom.training.trend.Trend.trained", lambda *rest: None)  # whatever the training loss
    with pytest.raises(Diverged, match=r"its best was 2.5000 at step 9; fathom generate uses the checkpoint of step"):
        train(recipe(tmp_path, eval_interval=3), tmp_path / "run")
    assert steps(tmp_path / "run" / "checkpoints") == [6, 9]


def test_a_question_is_answered_before_during_and_after(tmp_path: Path) -> None:
    events: list[Event] = []
    tuned(tmp_path, "run", report=events.append, ask="3 + 4 = ")
    samples = [event for event in events if isinstance(event, Sample)]
    assert [sample.step for sample in samples] == [0, 3, 6, 9, 12]
    assert {sample.question for sample in samples} == {"3 + 4 = "}
    compared = [event.text for event in events if isinstance(event, Note) and event.text.startswith("before: ")]
    assert len(compared) == 1 and "\nafter:  " in compared[0]
    kept = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "sample" in line]
    assert [(line["step"], line["question"]) for line in kept] == [(step, "3 + 4 = ") for step in (0, 3, 6, 9, 12)]


def test_without_ask_the_question_is_from_the_validation_data_with_its_answer(tmp_path: Path) -> None:
    events: list[Event] = []
    tuned(tmp_path, "run", report=events.append)
    (said,) = [event.text for event in events if isinstance(event, Note) and event.text.startswith("question: ")]
    question, answer = said.split("\nanswer in the data: ")
    assert question.endswith("=") and answer.strip("x").isdigit()


def test_plot_and_page_are_renewed_during_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_module, "DRAWING", 1e9)  # however long it takes
    there: list[bool] = []

    def listen(event: Event) -> None:
        if isinstance(event, Progress):
            there.append(all((tmp_path / "run" / name).exists() for name in ("loss.png", "page.html")))

    train(recipe(tmp_path), tmp_path / "run", report=listen)
    assert there == [False] * 4 + [True] * 8


def test_intervals_may_be_shares_of_the_run(tmp_path: Path) -> None:
    events: list[Event] = []
    result = train(recipe(tmp_path, eval_interval=0.25, sample_interval=0.5), tmp_path / "run", report=events.append)
    lines = read_metrics(result.folder / "metrics.jsonl")
    assert [line["step"] for line in lines if "val_loss" in line] == [3, 6, 9, 12]
    assert [line["step"] for line in lines if "sample" in line] == [6, 12]


def test_the_length_of_a_run_by_minutes_does_not_wobble() -> None:
    """Steps of 0.09 to 0.11 seconds: one estimate, near the 600 steps of a minute, and no other until the end."""
    length, shown, seconds = Length(TrainOptions(max_iters=10**6, max_minutes=1.0)), [], 0.0
    for step in range(1, 560):
        seconds += 5.0 if step == 1 else 0.09 + 0.02 * (step % 7) / 6
        shown.append(length.steps(step, seconds))
    assert shown[0] == 0 and len(set(shown)) == 2
    assert abs(shown[-1] - 550) <= 30
    assert [rounded(n) for n in (7, 93, 934, 12_345)] == [7, 93, 940, 13_000]


def test_the_time_left_of_minutes_falls_as_the_clock_runs_however_busy_the_machine_is() -> None:
    """Steps of 0.01 to 3 seconds at random: what is left is the budget less the time passed, at every step."""
    noise, out = Random(3), io.StringIO()
    length, view = Length(TrainOptions(max_iters=10**6, max_minutes=1.0)), LiveView("run", Console(file=out), 0)
    seconds, shown = 0.0, []
    while (seconds := seconds + noise.choice((0.01, 0.02, 0.4, 3.0))) < 60:
        step = len(shown) + 1
        left = length.left(step, seconds)
        view.progress(step, length.steps(step, seconds), 1.0, step, seconds, 1e-3, left)
        shown.append(view.state.remaining)
        assert view.state.remaining == pytest.approx(60 - seconds)
    assert shown == sorted(shown, reverse=True)
    assert Length(TrainOptions(max_iters=70)).left(1, 1.0) is None


def test_the_time_left_of_steps_is_that_at_the_mean_speed() -> None:
    noise, length, seconds, ends = Random(3), Length(TrainOptions(max_iters=4000)), 0.0, []
    for step in range(1, 4000):
        seconds += noise.choice((0.01, 0.02, 0.4))
        if (left := length.left(step, seconds)) is not None and step > 400:
            ends.append(seconds + left)
    assert max(ends) < 1.2 * min(ends)  # the end that is promised hardly moves


def test_the_length_of_a_run_by_steps_is_known() -> None:
    assert Length(TrainOptions(max_iters=70)).steps(1, 1.0) == 70
