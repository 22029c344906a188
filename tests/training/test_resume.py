"""Resuming at any step is bit for bit the run that never stopped (CPU, fp32, same threads)."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import fathom
from fathom.errors import FathomError
from fathom.formats.run import find
from fathom.training.events import Event, Note, Progress, Saved, read_metrics
from fathom.training.presets import Recipe
from fathom.training.train import train
from tests.training.runs import recipe

EMPTY = Recipe()  # what a resuming call says: nothing


class Stopped(Exception):
    """A run is cut off here."""


def after(kind: type[Event], step: int) -> Callable[[Event], None]:
    """A listener that cuts the run off at this event of this step."""

    def listen(event: Event) -> None:
        if isinstance(event, kind) and event.step == step:  # type: ignore[attr-defined]
            raise Stopped

    return listen


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    """Model and optimizer as the checkpoint of that step holds them."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    state = load_file(folder / "optimizer.safetensors")
    tensors = load_file(folder / "model.safetensors") | {f"optimizer {name}": tensor for name, tensor in state.items()}
    return {name: tensor.clone() for name, tensor in tensors.items()}  # a later write to the file is not seen


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def figures(run: Path) -> list[tuple[object, ...]]:
    """metrics.jsonl without its times."""
    return [
        tuple(line.get(key) for key in ("step", "loss", "val_loss", "grad_norm"))
        for line in read_metrics(run / "metrics.jsonl")
    ]


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_resumed_twice_is_bitwise_the_whole_run(tmp_path: Path, optimizer: str) -> None:
    """With dropout and accumulation; once cut off right after a checkpoint and once two steps later."""
    chosen = recipe(tmp_path, optimizer=optimizer, checkpoint_interval=5)
    train(chosen, tmp_path / "whole")
    with pytest.raises(Stopped):
        train(chosen, tmp_path / "parts", report=after(Saved, 5))
    torch.manual_seed(99)  # whatever state the process is in
    with pytest.raises(Stopped):
        train(EMPTY, tmp_path / "parts", mode="resume", report=after(Progress, 12))
    torch.manual_seed(98)
    assert train(EMPTY, tmp_path / "parts", mode="resume").step == 12
    assert same_bits(weights(tmp_path / "whole", 12), weights(tmp_path / "parts", 12))
    assert figures(tmp_path / "whole") == figures(tmp_path / "parts")


def test_resuming_across_an_epoch_is_bitwise(tmp_path: Path) -> None:
    text = (recipe(tmp_path), (tmp_path / "text.txt").read_text())[1][:700]  # 39 windows: an epoch is five steps
    (tmp_path / "text.txt").write_text(text)
    chosen = recipe(tmp_path, checkpoint_interval=4)
    train(chosen, tmp_path / "whole")
    with pytest.raises(Stopped):
        train(chosen, tmp_path / "parts", report=after(Saved, 4))
    train(EMPTY, tmp_path / "parts", mode="resume")
    assert same_bits(weights(tmp_path / "whole", 12), weights(tmp_path / "parts", 12))


def test_a_resumed_run_may_go_on_for_longer(tmp_path: Path) -> None:
    train(recipe(tmp_path), tmp_path / "run")
    with pytest.raises(Stopped):
        train(Recipe(train={"max_iters": 20}), tmp_path / "run", mode="resume", report=after(Saved, 16))
    assert train(EMPTY, tmp_path / "run", mode="resume").step == 20  # what was said is remembered


def test_resuming_a_complete_run_says_how_to_train_further(tmp_path: Path) -> None:
    train(recipe(tmp_path), tmp_path / "run")
    heard: list[Event] = []
    train(EMPTY, tmp_path / "run", mode="resume", report=heard.append)
    notes = [event.text for event in heard if isinstance(event, Note)]
    assert "this run is complete; to train it further, give --max-iters above 12" in notes


def test_a_run_without_a_checkpoint_starts_at_step_1(tmp_path: Path) -> None:
    chosen = recipe(tmp_path)
    train(chosen, tmp_path / "whole")
    with pytest.raises(Stopped):
        train(chosen, tmp_path / "run", report=after(Progress, 2))
    train(EMPTY, tmp_path / "run", mode="resume")
    assert same_bits(weights(tmp_path / "whole", 12), weights(tmp_path / "run", 12))


def test_a_refused_call_leaves_the_old_run(tmp_path: Path) -> None:
    train(recipe(tmp_path), tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(FathomError, match="fp16"):
        train(recipe(tmp_path, dtype="fp16"), tmp_path / "run", mode="overwrite")
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("said", "word"),
    [
        (Recipe(model={"n_layer": 3}), "n_layer"),
        (Recipe(train={"learning_rate": 0.5}), "learning_rate"),
        (Recipe(train={"seed": 5}), "seed"),
        (Recipe(train={"batch_size": 16}), "batch_size"),
    ],
)
def test_a_resumed_run_keeps_its_choices(tmp_path: Path, said: Recipe, word: str) -> None:
    train(recipe(tmp_path), tmp_path / "run")
    with pytest.raises(FathomError, match=word):
        train(said, tmp_path / "run", mode="resume")


def damage(run: Path, step: int) -> None:
    path = run / "checkpoints" / f"step-{step:08d}" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-9] ^= 4
    path.write_bytes(data)


def test_a_damaged_checkpoint_is_passed_over_and_said(tmp_path: Path) -> None:
    train(recipe(tmp_path), tmp_path / "run")
    whole = weights(tmp_path / "run", 12)
    damage(tmp_path / "run", 12)
    notes: list[str] = []
    train(
        EMPTY, tmp_path / "run", mode="resume", report=lambda e: notes.append(e.text) if isinstance(e, Note) else None
    )
    assert "step-00000012" in notes[0]
    assert "damaged" in notes[0]
    assert "step 8" in notes[1]
    assert same_bits(whole, weights(tmp_path / "run", 12))


def test_loading_takes_the_best_and_falls_back_with_a_warning(tmp_path: Path) -> None:
    train(recipe(tmp_path), tmp_path / "run")
    assert find(tmp_path / "run").name == "step-00000012"
    damage(tmp_path / "run", 12)
    with pytest.warns(UserWarning, match="step-00000008"):
        fathom.load(tmp_path / "run", device="cpu")
    damage(tmp_path / "run", 8)
    with pytest.raises(FathomError, match="damaged"):
        fathom.load(tmp_path / "run", device="cpu")


def test_the_best_checkpoint_outlives_newer_ones(tmp_path: Path) -> None:
    """A learning rate far too high after a good start: the best is not the last, and stays."""
    chosen = recipe(tmp_path, max_iters=40, optimizer="adamw", learning_rate=3e-3)
    train(chosen, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    first = sorted(folder.iterdir())[0]
    state = first / "state.json"
    losses = [line["val_loss"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "val_loss" in line]
    assert find(tmp_path / "run").name == f"step-{(losses.index(min(losses)) + 1) * 4:08d}"
    assert state.exists()


CODE = """
import signal, sys
from fathom.cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_a_good_checkpoint(tmp_path: Path, number: signal.Signals, code: int) -> None:
    recipe(tmp_path)
    call = ["train", "--data", str(tmp_path / "text.txt"), "--out-dir", str(tmp_path / "run"), "--max-iters", "1000000"]
    call += ["--model.d-model", "16", "--model.n-layer", "1", "--model.n-head", "2", "--block-size", "16"]
    call += ["--eval-interval", "900000", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, *call],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    for line in process.stderr:  # until it has trained
        if line.startswith("step"):
            break
    process.send_signal(number)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == code, rest
    assert "--resume" in rest
    folder = find(tmp_path / "run")
    step = int(folder.name.removeprefix("step-"))
    assert step > 0
    result = train(Recipe(train={"max_iters": step + 2}), tmp_path / "run", mode="resume")
    assert result.step == step + 2
