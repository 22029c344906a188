"""P10: what is shown is metrics.jsonl, a run that trains adds to it by itself, and what two runs differ in is the field
that was changed."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from fathom.anatomy.words import declared
from fathom.errors import FathomError
from fathom.experiments import recorded as record
from fathom.experiments.result import FILE
from fathom.formats.run import METRICS
from fathom.glass import runs
from fathom.glass.cards import cards, compared
from fathom.glass.panels import payload
from fathom.glass.passes import Pass
from fathom.glass.runs import Options, ladder_cards, ladders, listed, panel, rows
from fathom.glass.subject import open_subject
from fathom.training.page import state_of
from fathom.training.presets import find
from fathom.training.train import train
from tests.architectures import LLAMA, ids_for
from tests.glass.panels import a_pass, decoded, differs_in_python
from tests.training.runs import recipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of twelve steps, with samples, and one with another learning rate."""
    folder = tmp_path_factory.mktemp("runs")
    first = recipe(folder, sample_interval=6, sample_tokens=5)
    train(first, folder / "one")
    train(first.changed({}, {"learning_rate": 0.01}), folder / "group" / "other")
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "runs")
    return tmp_path / "runs"


def lines(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name / METRICS).read_text().splitlines()]


def test_rows_are_the_lines_of_the_file(folder: Path) -> None:
    found = rows(folder, "one")
    assert found["rows"] == lines(folder, "one") and found["step"] == 12 and found["state"] == "finished"
    later = rows(folder, "one", 8)
    assert later["rows"] == [line for line in lines(folder, "one") if line["step"] >= 8]
    assert later["file"] == found["file"]
    assert any("sample" in line for line in found["rows"]) and any("val_loss" in line for line in found["rows"])


def test_the_evaluation_of_a_step_that_was_known_still_arrives(folder: Path) -> None:
    known = rows(folder, "one")
    with (folder / "one" / METRICS).open("a") as file:
        file.write('{"step": 12, "val_loss": 1.5}\n{"step": 13, "loss": NaN}\n{"step": 14, "lo')
    more = rows(folder, "one", known["step"])["rows"]
    assert {"step": 12, "val_loss": 1.5} in more and {"step": 13, "loss": "NaN"} in more and more[-1]["step"] == 13


def test_lines_that_were_written_anew_are_of_another_file(folder: Path) -> None:
    before = rows(folder, "one")["file"]
    path = folder / "one" / METRICS
    kept = path.read_text().splitlines()[:5]
    path.with_suffix(".new").write_text("\n".join(kept) + "\n")
    path.with_suffix(".new").replace(path)
    assert rows(folder, "one", 12)["file"] != before


def test_a_list_tells_what_each_run_is(folder: Path) -> None:
    other, one = listed(folder)
    assert (other["name"], one["name"]) == ("group/other", "one")
    assert one["step"] == 12 and one["kind"] == "train" and one["state"] == "finished" and one["problem"] is None
    differ = {key for key in one["settings"] if one["settings"][key] != other["settings"][key]}
    assert differ == {"train.learning_rate"}
    assert one["settings"].keys() == other["settings"].keys()


def test_neighbouring_rungs_differ_in_one_setting() -> None:
    """As a list has it: by what was declared, not by what follows from it."""
    found = []
    keys = [name for name in runs.PRESETS if name.startswith("rung-") and name != "rung-experts"]
    for below, above in pairwise(declared(find(key).config(50).resolved()) for key in keys):
        found.append({name for name in {*below, *above} if below.get(name) != above.get(name)})
    assert [len(fields) for fields in found] == [1] * 10


def test_a_run_that_trains_adds_points_by_itself(tmp_path: Path) -> None:
    seen = []
    first = recipe(tmp_path)

    def watch(event: object) -> None:
        if (tmp_path / "runs" / "live" / METRICS).is_file():
            found = rows(tmp_path / "runs", "live", seen[-1][0] if seen else 0)
            seen.append((found["step"], found["state"]))

    train(first, tmp_path / "runs" / "live", report=watch)
    steps = [step for step, _ in seen]
    assert steps == sorted(steps) and {1, 5, 12} <= {*steps}
    assert {state for _, state in seen} == {"training"} and rows(tmp_path / "runs", "live")["state"] == "finished"


def test_a_run_that_vanished_is_said(folder: Path) -> None:
    shutil.rmtree(folder / "one")
    assert [run["name"] for run in listed(folder)] == ["group/other"]
    with pytest.raises(FathomError, match="there is no run 'one' any more"):
        rows(folder, "one")
    shutil.rmtree(folder)
    with pytest.raises(FathomError, match="is not a folder"):
        listed(folder)


@pytest.mark.parametrize("name", ["../one", "/etc", "", ".", "one/checkpoints", "group"])
def test_a_name_leads_nowhere_else(folder: Path, name: str) -> None:
    with pytest.raises(FathomError, match="there is no run"):
        rows(folder, name)


def test_a_damaged_run_is_listed_with_its_problem(folder: Path) -> None:
    (folder / "one" / "config.yaml").write_text("model: [")
    damaged = next(run for run in listed(folder) if run["name"] == "one")
    assert "config.yaml" in damaged["problem"] and "\n" not in damaged["problem"]


def test_a_run_that_was_killed_is_not_training_for_ever(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = folder / "one" / "page.html"
    page.write_text(page.read_text().replace("finished: step", "training: step").replace("state good", "state"))
    assert state_of(folder / "one") == "training" and runs.state(folder / "one") == "training"
    monkeypatch.setattr(runs, "FRESH", 0.0)
    assert runs.state(folder / "one") == "stopped"
    page.unlink()
    assert state_of(folder / "one") is None


def test_the_panel_of_a_run_shows_its_own_curves(folder: Path) -> None:
    run = Pass(open_subject(folder / "one"), ids_for(LLAMA, 1, 4) % 5)
    shown = panel(run, Options())
    assert shown.ok and not differs_in_python(run, shown, 2)
    own = [line["loss"] for line in lines(folder, "one") if "loss" in line]
    assert shown.series["run_loss"].values.tolist() == pytest.approx(own)
    assert shown.facts["run"]["name"] == "one" and shown.facts["run"]["samples"][-1]["step"] == 12


def test_a_model_that_is_no_run_shows_the_recorded_ladder() -> None:
    run = a_pass(LLAMA)
    shown = panel(run, Options())
    assert shown.ok and shown.facts["run"] is None and shown.facts["recorded"] and not differs_in_python(run, shown, 2)
    about, tensors = decoded(payload("runs", run)[0])
    assert len(tensors["bought"]) == 11 and len(about["facts"]["ladder"]["take_aways"]) == 13


def test_cards_are_the_ladder() -> None:
    result = record.recorded()
    found = cards(result)
    assert [card["title"] for card in found["rungs"]] == [rung.title for rung in (*result.ladder, *result.beside)]
    for card in found["rungs"][1:]:
        gain = result.gain(card["key"])
        assert card["bought"]["mean"] == gain.mean and card["bought"]["half_width"] == gain.half_width
        assert len(card["change"]) == 1 and card["source"]["text"]
        assert [line for mark, line in card["lines"] if mark != "-"] == card["source"]["text"].splitlines()
    marks = {card["key"]: {mark for mark, _ in card["lines"]} for card in found["rungs"]}
    assert {"+", "-"} <= marks["rmsnorm"] & marks["rope"] & marks["swiglu"] and marks["depth"] == {" "}
    models = [model for card in found["take_aways"] for model in card["models"]]
    assert len(models) == len(result.take_aways)
    mask = next(card for card in found["take_aways"] if card["key"] == "mask")
    assert mask["change"] == [] and mask["models"][0]["peeking"] < 1 and {"+", "-"} <= {m for m, _ in mask["lines"]}


def test_a_rung_that_changes_two_fields_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    runs.checks.cache_clear()
    ordinary = runs.difference
    monkeypatch.setattr(runs, "difference", lambda below, above: ordinary(below, above) | {"dropout": (0, 0.1)})
    assert [check.ok for check in runs.checks(record.recorded())] == [False, True]
    runs.checks.cache_clear()


def test_the_ladders_of_a_folder(folder: Path) -> None:
    shutil.copytree(folder / "one", folder / "ladder")
    shutil.copy(record.RECORDED / FILE, folder / "ladder" / FILE)
    assert ladders(folder) == ["ladder"] and "ladder" not in [run["name"] for run in listed(folder)]
    found = ladder_cards(folder, "ladder")
    assert found["rungs"][0]["title"] == "bigram"
    bought = [rung["bought"]["mean"] for rung in found["rungs"] if rung["bought"]]
    assert found["series"]["bought"]["values"] == bought and found["series"]["bought"]["shape"] == [len(bought)]
    series = found["series"]["losses"]
    program = "\n".join([*series["setup"], f"got = {series['code'].replace('{0}', '3')}"])
    exec(program, place := {})  # type: ignore[var-annotated]
    assert place["got"] == series["values"][3]
    (folder / "ladder" / FILE).write_text("{")
    with pytest.raises(FathomError, match="cannot be read"):
        ladder_cards(folder, "ladder")


def test_lines_are_compared() -> None:
    assert compared("a\nb\nc", "a\nx\nc") == [[" ", "a"], ["-", "b"], ["+", "x"], [" ", "c"]]


def test_what_can_be_started_is_known_by_name() -> None:
    assert {"demo", "rung-bigram"} <= {one["name"] for one in runs.presets()} and "python-docs" in runs.corpora()
