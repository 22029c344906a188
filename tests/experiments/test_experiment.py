"""A ladder is fair, ends in time, and is whole whenever it ends."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fathom.data.batches import Batches, eval_windows
from fathom.errors import FathomError
from fathom.experiments import experiment
from fathom.experiments.experiment import Cost, LadderProgress, ladder, plan, resume
from fathom.experiments.options import LadderOptions
from fathom.experiments.result import LadderResult, read
from fathom.experiments.rungs import IDEAS, IDEAS_BESIDE, rungs
from fathom.experiments.take_aways import everything
from fathom.formats.safetensors_file import read_tensors
from fathom.model.transformer import Transformer
from fathom.training.events import Event, Note, Prepared
from tests.experiments.conftest import SMALL

Climbed = tuple[LadderResult, Path, list[Event]]
EVERY = [*IDEAS, *IDEAS_BESIDE]
FEW = SMALL | {"rungs": ("bigram", "mlp", "gqa")}


def test_every_rung_is_trained_with_every_seed(climbed: Climbed) -> None:
    result, _, _ = climbed
    assert result.complete
    assert [(run.seed, run.rung) for run in result.trained] == [
        (seed, rung.key) for seed in (1337, 1338) for rung in everything(1)
    ]
    for run in result.trained:
        curve = run.seed == 1337 and run.rung in {idea.key for idea in EVERY}
        assert run.steps == ((0, 4, 8, 12) if curve else (12,))


def test_all_rungs_see_the_same_data(words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    class Watched(Batches):
        def at(self, step: int) -> torch.Tensor:
            seen.append(super().at(step).numpy().tobytes())
            return super().at(step)

    monkeypatch.setattr("fathom.data.batches.Batches", Watched)
    monkeypatch.setattr(experiment, "measure", lambda *_: Cost(1, 1))
    ladder(LadderOptions(data=str(words), **FEW), tmp_path / "run")
    runs = [seen[i : i + 12] for i in range(0, len(seen), 12)]
    assert len(runs) == 6
    assert runs[0] == runs[1] == runs[2] != runs[3] == runs[4] == runs[5]
    assert len(set(runs[0])) == 12


def test_a_reported_loss_is_that_of_the_stored_model(climbed: Climbed) -> None:
    """From the weights on disk, with nothing of the training room."""
    result, folder, _ = climbed
    val = np.load(folder / "data" / "val.npy")
    windows = torch.cat(list(eval_windows(val, 8, result.options.eval_windows)))
    for rung in result.models:
        for run in result.runs(rung.key):
            if rung.attend:
                assert not run.folder
                continue
            model = Transformer(rung.config)
            model.load_state_dict(read_tensors(folder / run.folder / "model.safetensors"))
            with torch.no_grad():
                logits = model(windows[:, :-1]).flatten(0, 1)
            loss = torch.nn.functional.cross_entropy(logits, windows[:, 1:].flatten())
            assert run.loss == pytest.approx(float(loss), abs=1e-5)


def test_one_seed_writes_samples(climbed: Climbed) -> None:
    result, _, _ = climbed
    rungs = {idea.key for idea in EVERY}
    assert all((run.sample is not None) == (run.seed == 1337 and run.rung in rungs) for run in result.trained)
    assert all(len(run.sample) > 50 for run in result.trained if run.sample is not None)


def test_without_a_mask_a_loss_is_measured_with_one(climbed: Climbed) -> None:
    """What it reaches while it sees the answer is kept apart: that is no prediction."""
    result, _, _ = climbed
    for run in result.trained:
        assert (run.peeking is not None) == run.rung.endswith("-mask")
        assert run.peeking is None or run.peeking != run.loss


def test_progress_goes_up_to_its_end(climbed: Climbed) -> None:
    said = [event for event in climbed[2] if isinstance(event, Prepared) and event.what.startswith("seed ")]
    places = list(dict.fromkeys((event.what, event.done, event.total) for event in said))
    assert places == [
        (f"seed {seed}/2, {kind}", place, total)
        for seed in (1, 2)
        for kind, total in (("rung", 12), ("take-away", 22))
        for place in range(1, total + 1)
    ]
    assert said[-1].left == pytest.approx(0, abs=1e-6)
    assert sum(isinstance(event, Note) for event in climbed[2]) == 68


def test_stopped_and_resumed_equals_never_stopped(words: Path, tmp_path: Path) -> None:
    class Tired:
        calls = 0

        def __call__(self) -> bool:
            self.calls += 1
            return self.calls > 12 * 3

    options = LadderOptions(data=str(words), **FEW)
    cut = ladder(options, tmp_path / "cut", stop=Tired())
    assert 0 < len(cut.trained) < 6 and not cut.complete
    assert read(tmp_path / "cut") == cut
    resumed, whole = resume(tmp_path / "cut", minutes=30), ladder(options, tmp_path / "whole")

    def outcome(result: LadderResult) -> list[tuple[Any, ...]]:
        return [(run.rung, run.seed, run.losses, run.sample) for run in result.trained]

    assert resumed.complete and outcome(resumed) == outcome(whole)


def test_the_minutes_end_a_ladder(words: Path, tmp_path: Path) -> None:
    start = experiment.REPORT_SECONDS / 60  # all of it is kept for the report
    cut = ladder(LadderOptions(data=str(words), **FEW | {"minutes": start}), tmp_path / "run")
    assert cut.trained == () and read(tmp_path / "run") == cut


def test_a_rung_that_diverges_is_left_out(words: Path, tmp_path: Path) -> None:
    said: list[Event] = []
    wild = LadderOptions(data=str(words), **FEW | {"learning_rate": 1e38, "seeds": 1})
    result = ladder(wild, tmp_path / "run", report=said.append)
    assert len(result.trained) < 3 and read(tmp_path / "run") == result
    assert any(isinstance(event, Note) and event.warning and "nothing was updated" in event.text for event in said)


def test_the_plan_fits_the_minutes() -> None:
    options = LadderOptions(seeds=3, minutes=5)
    costs = {"a": Cost(step=0.01, evaluation=0.1), "b": Cost(step=0.03, evaluation=0.3)}
    steps = plan(costs, options, seconds=280)
    total = sum(3 * steps * cost.step + (3 + options.evaluations) * cost.evaluation for cost in costs.values())
    assert 0.8 * 280 < total <= experiment.SLACK * 280
    with pytest.raises(FathomError, match=r"minutes=0.1 is too short for 2 models with 3 seeds.* give more minutes"):
        plan(costs, replace(options, minutes=0.1), seconds=1)


@pytest.mark.parametrize("one, all_of_them, chosen", [(1.0, 2.0, 1), (2.0, 1.0, 3)])
def test_the_faster_number_of_threads(
    one: float, all_of_them: float, chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {1: one, 3: all_of_them}
    monkeypatch.setattr(experiment, "measure", lambda *_: Cost(seconds[torch.get_num_threads()], 0))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with experiment.fastest_threads(rungs(5)[-1], LadderOptions(), None, []) as threads:  # type: ignore[arg-type]
            assert threads == torch.get_num_threads() == chosen
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_the_time_left_is_the_plan_at_the_pace_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Event] = []
    monkeypatch.setattr(experiment.time, "monotonic", iter([100.0, 104.0, 112.0]).__next__)
    pace = LadderProgress(10.0, said.append)
    for place, (seconds, done) in enumerate(((2.0, 1.0), (8.0, 0.5)), start=1):
        pace.part(seconds, "rung", place, 2)(done)
    assert said == [Prepared("rung", 1, 2, left=16.0), Prepared("rung", 2, 2, left=8.0)]


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"rungs": ("atention",)}, "no rung 'atention'; did you mean attention"),
        ({"rungs": ("residual",)}, "rung 'residual' is now 'mlp'"),
        ({"seeds": 0}, "seeds is 0"),
        ({"minutes": 0.0}, "minutes is 0"),
        ({"minutes": float("nan")}, "minutes is nan"),
        ({"steps": 0}, "steps is 0"),
        ({"d_model": 6}, "not a multiple of n_head"),
        ({"data": "nowhere.txt"}, "nowhere.txt"),
    ],
)
def test_wrong_calls_change_nothing(words: Path, tmp_path: Path, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(FathomError, match=says):
        ladder(LadderOptions(**{"data": str(words)} | FEW | wrong), tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["", "[]", '{"steps": 1}', "{", '{"options": {"sed": 1}}'])
def test_a_damaged_result_is_one_line(damage: str, tmp_path: Path) -> None:
    (tmp_path / "ladder.json").write_text(damage)
    with pytest.raises(FathomError, match=r"ladder\.json"):
        read(tmp_path)
    with pytest.raises(FathomError, match="there is no ladder in"):
        read(tmp_path / "none")


def test_the_file_is_plain_json(climbed: Climbed) -> None:
    result, folder, _ = climbed
    values = json.loads((folder / "ladder.json").read_text(encoding="utf-8"))
    assert values["trained"][3]["losses"][-1] == result.trained[3].loss
    assert read(folder) == result


def test_the_trained_bigram_becomes_the_counted_one(shared_data: Path, tmp_path: Path) -> None:
    """With the settings of every ladder and fewer steps than a quick one has."""
    options = LadderOptions(data=str(shared_data / "tinyshakespeare.txt"), rungs=("bigram",), seeds=1, steps=400)
    result = ladder(options, tmp_path / "run")
    loss = result.loss("bigram")
    assert loss and abs(loss.mean - result.references.bigram) < 0.02
    assert result.references.bigram < result.references.unigram < result.references.uniform
