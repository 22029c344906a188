"""`fathom runs`: every run below a folder in one table, several on one picture, at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fathom.cli.main import main
from fathom.training.train import train
from tests.training.runs import recipe
from tests.training.tuning import tuned


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("all")
    for name in ("a", "deep/b"):
        (place / name).parent.mkdir(exist_ok=True)
        train(recipe(place), place / name)
    tuned(place, "tuned")
    return place


def listed(capsys: pytest.CaptureFixture[str], *call: str) -> dict[str, dict]:
    assert main(["runs", *call, "--json"]) == 0
    return {Path(row["path"]).name: row for row in json.loads(capsys.readouterr().out.splitlines()[-1])["runs"]}


def test_all_runs_below_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = listed(capsys, str(folder))
    assert list(rows) == ["a", "b", "tuned"]
    lines = [json.loads(line) for line in (folder / "a" / "metrics.jsonl").read_text().splitlines()]
    best = min((line for line in lines if "val_loss" in line), key=lambda line: line["val_loss"])
    a = rows["a"]
    assert (a["best_loss"], a["best_step"], a["step"], a["steps"]) == (best["val_loss"], best["step"], 12, 12)
    assert (a["exports"], rows["tuned"]["exports"]) == (["hf"], ["hf", "gguf"])  # characters, bytes
    assert (a["kind"], rows["tuned"]["kind"]) == ("train", "lora")


def test_the_table_names_runs_data_and_losses(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # the folder's name is long
    assert main(["runs", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "best loss" in out and "Qwen3, 2 × 24" in out and "hf, gguf" in out and out.count(" at ") == 3


def test_a_damaged_run_is_left_out_and_said(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("config.yaml", "facts.json"):
        (tmp_path / name).write_text("][")
    assert main(["runs", str(folder / "a"), str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "Qwen3" in captured.out and f"{tmp_path} is left out" in captured.err


def test_several_on_one_picture(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(folder / "a"), str(folder / "tuned"), "--plot", str(tmp_path / "both.svg")]) == 0
    assert (tmp_path / "both.svg").read_text().rstrip().endswith("</svg>")
    assert main(["runs", str(folder), "--plot", str(tmp_path / "both.gif")]) == 2
    assert "ends in .png or .svg" in capsys.readouterr().err


def test_where_nothing_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(tmp_path)]) == 2
    assert main(["runs", str(tmp_path / "x")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "no runs below" in lines[0] and "is not a folder" in lines[1]


def test_without_torch(folder: Path) -> None:
    code = (
        f"import sys; from fathom.cli.main import main; main(['runs', {str(folder)!r}]); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False"
