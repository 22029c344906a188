"""A fine-tuning run that was cut off goes on bit for bit as if it never had been (CPU, fp32 and bf16, same threads)."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fathom.errors import FathomError
from fathom.training.events import Progress, Saved, read_metrics
from fathom.training.finetune import finetune
from tests.training.test_resume import Stopped, after, figures, same_bits
from tests.training.tuning import base, records, tuned

RUNS: dict[str, dict[str, Any]] = {
    "lora with dropout": {"dropout": 0.3},
    "pissa": {"init": "pissa"},
    "dora, packed": {"method": "dora", "pack": True, "dropout": 0.1},
    "qlora in bf16": {"method": "qlora", "dtype": "bf16", "dropout": 0.2},
    "recomputed blocks": {"dropout": 0.3, "checkpoint_blocks": True},
    "full": {"method": "full", "learning_rate": 0.001},
    "full, moments in 8 bits": {"method": "full", "learning_rate": 0.001, "optimizer": "adamw8bit"},
}


def tensors(run: Path, step: int) -> dict[str, torch.Tensor]:
    """What learned, and the optimizer, as the checkpoint of that step holds them."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    names = ("trained.safetensors", "model.safetensors", "optimizer.safetensors")
    return {f"{n} {k}": x for n in names if (folder / n).exists() for k, x in load_file(folder / n).items()}


@pytest.mark.parametrize("name", RUNS)
def test_resumed_twice_is_bitwise_the_whole_run(tmp_path: Path, name: str) -> None:
    """Once cut off right after a checkpoint and once two steps later; past the end of an epoch."""
    said = RUNS[name] | {"checkpoint_interval": 5}
    tuned(tmp_path, "whole", **said)
    with pytest.raises(Stopped):
        tuned(tmp_path, "parts", report=after(Saved, 5), **said)
    torch.manual_seed(99)  # whatever state the process is in
    with pytest.raises(Stopped):
        tuned(tmp_path, "parts", mode="resume", report=after(Progress, 12))
    torch.manual_seed(98)
    assert tuned(tmp_path, "parts", mode="resume").step == 12
    assert same_bits(tensors(tmp_path / "whole", 12), tensors(tmp_path / "parts", 12))
    assert figures(tmp_path / "whole") == figures(tmp_path / "parts")


def test_a_run_without_a_checkpoint_starts_at_step_1(tmp_path: Path) -> None:
    tuned(tmp_path, "whole")
    with pytest.raises(Stopped):
        tuned(tmp_path, "parts", report=after(Progress, 2))
    tuned(tmp_path, "parts", mode="resume")
    assert same_bits(tensors(tmp_path / "whole", 12), tensors(tmp_path / "parts", 12))
    assert figures(tmp_path / "whole") == figures(tmp_path / "parts")


def test_a_resumed_run_may_go_on_for_longer_without_its_data(tmp_path: Path) -> None:
    tuned(tmp_path, "run")
    (tmp_path / "records.jsonl").unlink()
    assert tuned(tmp_path, "run", mode="resume", max_iters=14).step == 14
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if "val_loss" in line] == [0, 4, 8, 12, 14]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 15))
    assert [line["step"] for line in lines if "sample" in line] == [0, 3, 6, 9, 12, 14]


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ({"rank": 4}, "rank=8, not 4"),
        ({"method": "dora"}, "method='lora'"),
        ({"mask_prompt": False}, "mask_prompt"),
        ({"learning_rate": 0.5}, "learning_rate"),
        ({"target": ("attn.q",)}, "target"),
    ],
)
def test_a_resumed_run_keeps_its_choices(tmp_path: Path, said: dict[str, Any], word: str) -> None:
    tuned(tmp_path, "run")
    with pytest.raises(FathomError, match=word):
        tuned(tmp_path, "run", mode="resume", **said)


def test_a_base_that_moved_is_named_and_another_is_refused(tmp_path: Path) -> None:
    tuned(tmp_path, "run")
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(FathomError, match="name it: fathom finetune MODEL --resume"):
        tuned(tmp_path, "run", mode="resume")
    base(tmp_path / "base")  # other random weights
    with pytest.raises(FathomError, match="is not the model"):
        tuned(tmp_path, "run", mode="resume")
    assert finetune(tmp_path / "moved", None, tmp_path / "run", mode="resume", train={"max_iters": 13}).step == 13


def test_training_and_fine_tuning_do_not_resume_each_other(tmp_path: Path) -> None:
    from fathom.training.train import train
    from tests.training.runs import recipe

    tuned(tmp_path, "run")
    with pytest.raises(FathomError, match="fathom finetune --resume"):
        train(out_dir=tmp_path / "run", mode="resume")
    train(recipe(tmp_path), tmp_path / "trained")
    with pytest.raises(FathomError, match="not of fathom finetune; continue it: fathom train --resume"):
        tuned(tmp_path, "trained", mode="resume")


def test_an_existing_run_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    tuned(tmp_path, "run")
    with pytest.raises(FathomError, match="--resume"):
        tuned(tmp_path, "run")
    records(tmp_path / "records.jsonl", 40)
    assert tuned(tmp_path, "run", mode="overwrite", max_iters=6).step == 6
