"""A run from text to a model that loads: what is written, what is said, and what ends it."""

import json
import math
from pathlib import Path

import pytest
import torch

import fathom
from fathom.data.batches import eval_windows
from fathom.errors import Diverged, FathomError
from fathom.formats.checkpoint import steps
from fathom.training import loop
from fathom.training.events import Evaluated, Event, Note, Progress, Sample, Saved, read_metrics
from fathom.training.loop import evaluate, update
from fathom.training.run import open_run
from fathom.training.session import Session
from fathom.training.train import train
from tests.training.runs import TEXT, recipe


def test_a_run_leaves_everything_that_is_promised(tmp_path: Path) -> None:
    events: list[Event] = []
    result = train(recipe(tmp_path, sample_interval=6), tmp_path / "run", report=events.append)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "config.yaml",
        "tokenizer.json",
        "data",
        "facts.json",
        "metrics.jsonl",
        "page.html",
        "loss.png",
        "loss.svg",
        "checkpoints",
    }
    assert steps(tmp_path / "run" / "checkpoints") == [8, 12]
    assert (
        [e.step for e in events if isinstance(e, Evaluated)]
        == [4, 8, 12]
        == [e.step for e in events if isinstance(e, Saved)]
    )
    assert [e.step for e in events if isinstance(e, Sample)] == [6, 12]
    assert [e.step for e in events if isinstance(e, Progress)] == list(range(1, 13))
    assert (result.step, result.tokens, result.exit_code) == (12, 12 * 8 * 16, 0)


def test_the_loaded_model_is_the_trained_one(tmp_path: Path) -> None:
    """The loss in the result is what the model on disk has, worked out here by torch's own cross entropy."""
    result = train(recipe(tmp_path, eval_windows=None), tmp_path / "run")
    model, _ = fathom.load(tmp_path / "run", device="cpu")
    run = open_run(tmp_path / "run")
    windows = torch.cat(list(eval_windows(run.tokens("val"), 16)))
    loss = torch.nn.functional.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
    assert loss.item() == pytest.approx(result.validation_loss, abs=1e-5)
    bits = loss.item() / math.log(2)  # every token of this text is one character
    assert bits == pytest.approx(result.bits_per_character, abs=1e-5)


def test_it_learns_what_a_bigram_cannot(tmp_path: Path) -> None:
    chosen = recipe(tmp_path, max_iters=200, eval_interval=200, learning_rate=1e-2).changed({"dropout": 0.0}, {})
    result = train(chosen, tmp_path / "run")
    run = open_run(tmp_path / "run")
    tokens = torch.from_numpy(run.tokens("train").astype("int64"))
    pairs = torch.zeros(run.tokenizer.vocab_size, run.tokenizer.vocab_size)
    pairs.index_put_((tokens[:-1], tokens[1:]), torch.ones(len(tokens) - 1), accumulate=True)
    entropy = -(pairs * (pairs / pairs.sum(1, keepdim=True)).nan_to_num(1).clamp(min=1e-9).log()).sum() / pairs.sum()
    assert result.validation_loss is not None
    assert result.validation_loss < 0.7 * entropy.item()


def test_metrics_hold_every_step_once(tmp_path: Path) -> None:
    train(recipe(tmp_path), tmp_path / "run")
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))
    assert all(math.isfinite(line["grad_norm"]) for line in lines if "loss" in line)
    assert [line["step"] for line in lines if "val_loss" in line] == [4, 8, 12]


def test_what_is_said_before_step_1(tmp_path: Path) -> None:
    notes: list[Note] = []
    train(recipe(tmp_path), tmp_path / "run", report=lambda e: notes.append(e) if isinstance(e, Note) else None)
    text = "\n".join(note.text for note in notes)
    for word in ("loss before step 1", "precision", "muon", "adamw", "MiB", "parameters", "passes over the text"):
        assert word in text
    assert not any(note.warning for note in notes)


def test_every_preset_of_the_command_line_is_one_in_python(tmp_path: Path) -> None:
    recipe(tmp_path)
    options = {"data": str(tmp_path / "text.txt"), "max_iters": 1, "eval_windows": 2, "device": "cpu"}
    result = fathom.train("rung-mlp", tmp_path / "run", options=options)
    assert result.step == 1 and open_run(tmp_path / "run").config.mlp == "gelu"
    with pytest.raises(FathomError, match="did you mean rung-mlp"):
        fathom.train("rung-mpl")


def warnings_of(tmp_path: Path, text: str, **train_options: object) -> str:
    (tmp_path / "text.txt").write_text(text)
    notes: list[str] = []
    chosen = recipe(tmp_path, **train_options)
    train(
        chosen, tmp_path / "run", report=lambda e: notes.append(e.text) if isinstance(e, Note) and e.warning else None
    )
    return "\n".join(notes)


def test_a_warning_where_validation_text_was_trained_on(tmp_path: Path) -> None:
    half = "".join(chr(97 + (i * i * 7 + i // 5) % 26) for i in range(4000))
    assert "is also in the training text" in warnings_of(tmp_path, half * 2, max_iters=1)


def test_a_warning_where_the_text_is_too_small_for_the_context(tmp_path: Path) -> None:
    text = "".join(chr(97 + (i * i * 7 + i // 5) % 26) for i in range(200))
    assert "memorise it" in warnings_of(tmp_path, text, max_iters=1)


def test_a_warning_where_the_first_loss_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fathom.model.init.STD", 1.0)
    assert "far off" in warnings_of(tmp_path, TEXT, max_iters=1)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_divergence_updates_nothing_and_names_the_step(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(recipe(tmp_path), tmp_path / "run")
    run = open_run(tmp_path / "run")
    session = Session.start(run.config, run.options)
    before = {name: tensor.clone() for name, tensor in session.model.state_dict().items()}
    if where == "loss":
        monkeypatch.setattr(loop, "accumulate", lambda *_: torch.tensor(float("nan")))
        for parameter in session.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
    else:
        session.model.embed.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(Diverged, match=r"step 1: .*windows 0 to 7"):
        update(session, session.prepare(torch.zeros(8, 17, dtype=torch.long)))
    assert all(torch.equal(before[name], tensor) for name, tensor in session.model.state_dict().items())


def test_an_overflow_in_fp16_leaves_a_step_out_and_lowers_the_scale(tmp_path: Path) -> None:
    """One matrix overflows: no optimizer moves, not even the one whose own gradients are finite."""
    session = Session.start(recipe(tmp_path).config(30), recipe(tmp_path).options())
    session.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    before = {name: tensor.clone() for name, tensor in session.model.state_dict().items()}
    hook = session.model.blocks[0].attn.q.weight.register_hook(lambda gradient: gradient * float("inf"))
    update(session, session.prepare(torch.randint(0, 30, (8, 17))))
    assert all(torch.equal(before[name], tensor) for name, tensor in session.model.state_dict().items())
    assert session.scaler.get_scale() == 2.0**9
    hook.remove()
    update(session, session.prepare(torch.randint(0, 30, (8, 17))))
    after = session.model.state_dict()
    assert not any(torch.equal(before[name], after[name]) for name in ("embed.weight", "blocks.0.attn.q.weight"))
    assert all(tensor.isfinite().all() for tensor in after.values())


def test_minutes_end_a_run_and_its_schedule(tmp_path: Path) -> None:
    events: list[Event] = []
    chosen = recipe(
        tmp_path, max_iters=10**6, max_minutes=1e-9, optimizer="adamw", schedule="linear", final_fraction=0.0
    )
    result = train(chosen, tmp_path / "run", report=events.append)
    steps = [e for e in events if isinstance(e, Progress)]
    assert (result.step, steps[-1].steps) == (1, 1)
    assert steps[-1].learning_rate <= 1e-3


def test_a_diverging_run_keeps_its_checkpoints(tmp_path: Path) -> None:
    """At a learning rate that overflows, the run ends with an error and what was saved before stays as it was."""
    train(recipe(tmp_path), tmp_path / "run")
    kept = {p: p.read_bytes() for p in (tmp_path / "run" / "checkpoints").rglob("*") if p.is_file()}
    state = json.loads((tmp_path / "run" / "checkpoints" / "step-00000012" / "state.json").read_text())
    assert state["step"] == 12
    run = open_run(tmp_path / "run")
    session = Session.start(run.config, run.options)
    session.model.embed.weight.data[0] = float("inf")
    with pytest.raises(FathomError):
        loop.fit(session, _Same(), [], save=lambda s: pytest.fail("a checkpoint was saved"))
    assert kept == {p: p.read_bytes() for p in (tmp_path / "run" / "checkpoints").rglob("*") if p.is_file()}


class _Same:
    def at(self, step: int) -> torch.Tensor:
        return torch.zeros(8, 17, dtype=torch.long)


def test_evaluation_draws_no_dropout_and_leaves_training_mode(tmp_path: Path) -> None:
    run_config = recipe(tmp_path).config(30)
    session = Session.start(run_config, recipe(tmp_path).options())
    windows = [torch.randint(0, 30, (4, 17))]
    first = evaluate(session.model, windows, session.precision)
    assert first == evaluate(session.model, windows, session.precision)
    assert session.model.training
