"""`fathom finetune`: what is said on the command line is what is trained, and mistakes end in one line."""

import json
from pathlib import Path

import pytest
import yaml

from fathom.cli.main import main
from tests.training.tuning import base, records

SHORT = ["--max-iters", "4", "--batch-size", "4", "--eval-interval", "2", "--train.sample-tokens", "3"]


def call(folder: Path, *words: str) -> int:
    model, data = base(folder / "base"), records(folder / "records.jsonl")
    return main(["finetune", str(model), "--data", str(data), "-o", str(folder / "run"), *SHORT, *words])


def test_options_reach_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--method", "dora", "-r", "4", "--lora-alpha", "6", "--target", "attn.q,mlp.*", "--no-mask-prompt"]
    assert call(tmp_path, *words, "--pack", "--rslora", "--lr", "0.01", "--seed", "5", "--json") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["step"] == 4 and result["exit_code"] == 0
    said = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    tuning = said["finetune"]
    assert (tuning["method"], tuning["rank"], tuning["alpha"], tuning["target"]) == (
        "dora",
        4,
        6.0,
        ["attn.q", "mlp.*"],
    )
    assert (tuning["mask_prompt"], tuning["pack"], tuning["rslora"]) == (False, True, True)
    assert (said["train"]["learning_rate"], said["train"]["seed"]) == (0.01, 5)


def test_what_was_trained_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path, "--device", "cpu") == 0
    assert "before step 1" in (said := capsys.readouterr().err) and "fathom chat" in said
    write = ["-p", "1 + 2 = ", "-n", "5", "-t", "0", "--device", "cpu"]
    assert main(["generate", str(tmp_path / "run"), *write]) == 0
    alone = capsys.readouterr().out
    assert main(["generate", str(tmp_path / "base"), "--adapter", str(tmp_path / "run" / "adapter"), *write]) == 0
    assert capsys.readouterr().out == alone
    assert main(["finetune", "--resume", "-o", str(tmp_path / "run"), "--max-iters", "5"]) == 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--method", "lorra"], "method is 'lorra'"),
        (["--rank", "many"], "rank is 'many'"),
        (["--method", "full", "-r", "4"], "rank was given"),
        (["--resume", "--overwrite"], "mutually exclusive"),
        (["--lora-rnk", "4"], "no option --lora-rnk"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_mistakes_end_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    assert call(tmp_path, *words) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert line in said and not (tmp_path / "run").exists()
