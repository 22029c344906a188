"""A step that is made again is the same step, to the bit; what is told of it belongs together; nothing is changed."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import fathom
from fathom.cli.main import main
from fathom.data.batches import as_batch
from fathom.errors import FathomError
from fathom.formats.run import METRICS
from fathom.training.replay import opened_run, replay
from tests.training.runs import recipe
from tests.training.tuning import tuned


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve steps with dropout, accumulation and Muon; checkpoints at 4, 8 and 12, of which the last two are kept."""
    folder = tmp_path_factory.mktemp("replay")
    return fathom.train(recipe(folder), folder / "run").folder


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(("step", "begin"), [(1, 0), (7, 0), (9, 8), (12, 8)])
def test_a_step_is_the_same_to_the_bit(run: Path, step: int, begin: int) -> None:
    before = everything(run)
    found = replay(run, step)
    assert (found.equal, found.begin) == (True, begin) and "equal to the bit" in str(found)
    assert everything(run) == before
    mean = sum(sum(row.losses) for row in found.rows) / sum(len(row.losses) for row in found.rows)
    assert mean == pytest.approx(found.loss, rel=1e-6) and len(found.rows) == 8
    norm = math.sqrt(sum(part.gradient**2 for part in found.parts))
    assert norm == pytest.approx(found.grad_norm, rel=1e-5)
    assert [part.name for part in found.parts][:3] == ["embed", "blocks.0.attn_norm", "blocks.0.attn"]
    assert all(part.change > 0 for part in found.parts)


def test_its_text_is_the_batch_and_its_model_the_weights_before(run: Path) -> None:
    found, opened = replay(run, 9), opened_run(run)
    rows = as_batch(opened.batches().at(8))
    for row, ids, targets in zip(found.rows, rows.ids.tolist(), rows.targets.tolist()):
        assert ("".join(row.tokens), "".join(row.targets)) == tuple(map(opened.tokenizer.decode, (ids, targets)))
    saved = fathom.load(run / "checkpoints" / "step-00000008")[0]
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in found.model.state_dict().items())


@pytest.mark.parametrize("method", ["lora", "full"])
def test_fine_tuning_too_where_only_answers_are_learned(tmp_path: Path, method: str) -> None:
    tuned(tmp_path, "tuned", method=method)
    for step in (3, 10):
        found = replay(tmp_path / "tuned", step)
        assert found.equal and found.recorded is not None
        learned = [loss for row in found.rows for loss in row.losses if not math.isnan(loss)]
        assert sum(learned) / len(learned) == pytest.approx(found.loss, rel=1e-5)
        assert 0 < len(learned) < sum(len(row.losses) for row in found.rows)
        assert any(part.gradient > 0 for part in found.parts)


def test_what_differs_is_said(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of another loss than the run wrote the exit code is 1; a damaged checkpoint is passed over."""
    copy = tmp_path / "copy"
    for name, content in everything(run).items():
        place = copy / Path(name).relative_to(run)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    lines = [json.loads(line) for line in (copy / METRICS).read_text().splitlines()]
    wrong = [line | {"loss": line["loss"] + 1e-6} if line["step"] == 9 and "loss" in line else line for line in lines]
    (copy / METRICS).write_text("".join(json.dumps(line) + "\n" for line in wrong))
    assert main(["replay", str(copy), "--step", "9"]) == 1
    assert "not the same to the bit" in capsys.readouterr().out
    (copy / "checkpoints" / "step-00000008" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(FathomError, match="no checkpoint before step 10 is intact"):
        replay(copy, 10)
    assert replay(copy, 8).begin == 0


def test_the_command_and_its_page(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "step.html"
    assert main(["replay", str(run), "--step", "5", "--json", "--look", str(page), "--row", "2"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["equal"] and len(told["rows"]) == 8 and "before step 5" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (["--step", "13"], "has made 12 steps"),
        (["--step", "0"], "--step"),
        (["--step", "2", "--look", "page.txt"], "ends in .html"),
        (["--step", "2", "--look", "page.html", "--row", "8"], "rows 0 to 7"),
    ],
)
def test_bad_calls_are_one_line(
    run: Path, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str], said: list[str], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["replay", str(run), *said]) == 2
    told = capsys.readouterr().err.strip()
    assert line in told and "\n" not in told and not list(tmp_path.iterdir())


def test_a_folder_without_a_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FathomError, match="holds no run"):
        replay(tmp_path, 1)
