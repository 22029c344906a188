"""Help that explains: every option has a sentence and the default that this call would have; `--help` is short."""

import ast
import inspect
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import click
import pytest

from fathom.adapters.options import LoraOptions
from fathom.bench.options import BenchOptions
from fathom.cli import completion
from fathom.cli.command import Option, Verb
from fathom.cli.main import GROUPS, VERBS, main, verbs
from fathom.cli.notes import Note, notes
from fathom.generation.options import GenerateOptions
from fathom.model.config import ModelConfig
from fathom.training.finetune import finetune
from fathom.training.options import FinetuneOptions, TrainOptions
from fathom.training.presets import PRESETS
from fathom.training.run import open_finetune_run
from tests.training.tuning import base, records

CONTEXT = click.Context(verbs, info_name="fathom")
ALL = [name for name in VERBS if isinstance(verbs.get_command(CONTEXT, name), Verb)]


def command(name: str) -> Verb:
    found = verbs.get_command(CONTEXT, name)
    assert isinstance(found, Verb)
    return found


def shown(call: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """The help as one line of words, so that wrapping does not matter."""
    assert main(call) == 0
    return " ".join(capfd.readouterr().out.split())


@pytest.mark.parametrize("name", ALL)
def test_every_option_has_a_sentence(name: str) -> None:
    for param in command(name).params:
        if isinstance(param, click.Option):
            assert isinstance(param, Option), param
            text = param.explained(click.Context(command(name)))
            assert re.match(r"[A-Z].*\.(  \[|$)", text) and len(text) > 12, (param.opts, text)
            assert param.is_flag or param.shown or param.required or param.multiple or param.name in UNSET, param.opts


UNSET = {
    "plot",
    "quantize",
    "rope_scaling",
    "beside",
    "draft",
    "folder",
    "tools",
    "system",
    "page",
    "train__data",
    "epochs",
}  # off


@pytest.mark.parametrize("name", ALL)
def test_help_shows_what_people_use_and_help_all_the_rest(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    verb = command(name)
    assert sum(map(len, verb.groups.values())) <= 16
    assert main([name, "--help-all"]) == 0
    every = capfd.readouterr().out
    assert main([name, "-h"]) == 0
    short = capfd.readouterr().out
    for text in (every, short):
        assert max(map(len, text.splitlines())) <= 80
    for param in verb.params:
        if isinstance(param, Option) and not param.hidden:
            long = next(o for o in param.opts if o.startswith("--")).removeprefix("--")
            assert re.search(rf"--(\[no-\])?{re.escape(long)}\b", every), long
            if verb.groups and any(param.name in names for names in verb.groups.values()):
                assert long in short
    assert len(short) <= len(every)


@pytest.mark.parametrize("name", ALL)
def test_one_spelling_is_shown(name: str) -> None:
    for param in command(name).params:
        if isinstance(param, Option) and not param.hidden:
            record = param.get_help_record(click.Context(command(name)))
            assert record and record[0].count("--") == 1, record


@pytest.mark.parametrize("name", ALL)
def test_no_verb_offers_an_option_that_it_ignores(name: str) -> None:
    """Each is a parameter of the function, a name in its module, or a field of the options it builds."""
    function = command(name).callback
    module = sys.modules[inspect.unwrap(function).__module__]  # type: ignore[arg-type]
    used = set(inspect.signature(inspect.unwrap(function)).parameters)  # type: ignore[arg-type]
    sources = [module, sys.modules["fathom.cli.generation"]]
    for source in sources:
        for node in ast.walk(ast.parse(inspect.getsource(source))):
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                used.add(str(node.slice.value))
    built = {value for value in vars(module).values() if isinstance(value, type) and is_dataclass(value)}
    built |= {GenerateOptions} if name == "chat" else set()
    used |= {field.name for cls in built for field in fields(cls)} | {"debug", "help_all", "epochs"}  # main reads debug
    for param in command(name).params:
        if isinstance(param, Option) and param.name:
            assert param.name.split("__")[-1] in used or param.name in used, param.opts


@pytest.mark.parametrize("cls", [TrainOptions, ModelConfig, GenerateOptions, FinetuneOptions, BenchOptions])
def test_every_field_has_a_comment(cls: type) -> None:
    assert set(notes(cls)) == {field.name for field in fields(cls)}
    assert not [name for name, note in notes(cls).items() if not note.sentence and name != "work"]


def test_a_note_is_a_sentence_what_none_means_and_a_heading() -> None:
    assert notes(LoraOptions)["alpha"] == Note("", "2 * rank, of each layer", "")
    assert notes(FinetuneOptions)["alpha"] == Note(
        "scale of the adapter, divided by its rank", "2 × rank", "the adapter"
    )


@pytest.mark.parametrize("preset", ["demo", "gpt2", "llama-tiny", "shakespeare"])
def test_defaults_are_those_of_the_preset(preset: str, capfd: pytest.CaptureFixture[str]) -> None:
    recipe, text = PRESETS[preset], shown(["train", preset, "--help-all"], capfd)
    defaults = dict(re.findall(r"(--[\w.-]+) \w+ [^\[\]]*\[default: ([^\]]*)\]", text))
    options, config = recipe.options(), recipe.config(1).resolved()
    assert float(defaults["--lr"]) == options.learning_rate
    assert float(defaults["--train.muon-learning-rate"]) == options.muon_learning_rate
    assert int(defaults["--max-iters"]) == options.max_iters
    assert int(defaults["--model.d-model"]) == config.d_model
    assert int(defaults["--model.d-ff"]) == config.d_ff
    assert int(defaults["--context-length"]) == config.context_length
    assert defaults["--model.mlp"] == config.mlp
    assert defaults["--out-dir"] == f"runs/{preset}"


def test_defaults_follow_from_options_given_before_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert "MLP. [default: 1024]" in shown(["train", "gpt-cpu", "--model.d-model", "256", "--help-all"], capfd)
    assert "Example:" in shown(["train", "no-such-preset", "--help"], capfd)  # help is never refused


@pytest.mark.parametrize("method", ["lora", "full", "qlora"])
def test_defaults_of_finetune_are_those_of_its_run(
    method: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, data, call = base(tmp_path / "base"), records(tmp_path / "records.jsonl"), {"method": method}
    finetune(model, data, tmp_path / "run", max_iters=6, device="cpu", **call)
    run = open_finetune_run(tmp_path / "run")
    given = ["--data", str(data), "--max-iters", "6", "--device", "cpu", "--method", method]
    text = shown(["finetune", str(model), *given, "--help-all"], capfd)
    defaults = dict(re.findall(r"(--[\w.-]+) \w+ [^\[\]]*\[default: ([^\]]*)\]", text))
    for name in ("learning_rate", "muon_learning_rate", "batch_size", "micro_batch_size", "eval_interval", "clip"):
        shorter = {"learning_rate": "--lr"}.get(name, f"--{name.replace('_', '-')}")
        found = defaults.get(shorter) or defaults[f"--train.{shorter[2:]}"]
        assert float(found) == pytest.approx(getattr(run.options, name)), name
    assert int(defaults["--train.warmup-steps"]) == run.options.warmup
    assert int(defaults["--context-length"]) == run.tuning.context_length
    assert defaults["--quantize"] == ("nf4" if method == "qlora" else "nf4 for qlora, otherwise floats")
    assert method == "full" or float(defaults["--alpha"]) == 2 * run.tuning.rank


def test_defaults_of_finetune_without_a_model_say_what_they_follow_from(capfd: pytest.CaptureFixture[str]) -> None:
    assert "[default: from the method and the width of MODEL]" in shown(["finetune", "--help"], capfd)


def test_help_of_all_verbs_and_of_one(capfd: pytest.CaptureFixture[str]) -> None:
    text = shown(["help"], capfd)
    assert all(f" {title}: " in text for title in GROUPS) and all(f" {name} " in text for name in VERBS)
    assert shown(["help", "eval"], capfd) == shown(["eval", "--help"], capfd)


def test_version_names_torch_the_device_and_the_instruction_set() -> None:
    code = "import sys; from fathom.cli.main import main; main(['--version']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for word in ("fathom 0.", "torch 2.", "device ", "native code"):
        assert word in done.stdout


def completed(words: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    parts = words.split(" ")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(parts) - 1))
    monkeypatch.setenv(completion.VARIABLE, "bash_complete")
    assert main([]) == 0
    return [line.partition(",")[2] for line in capfd.readouterr().out.splitlines()]


def test_verbs_options_choices_presets_and_runs_are_completed(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("")
    assert completed("fathom ex", capfd, monkeypatch) == ["export", "extract"]
    assert completed("fathom generate --quantize i", capfd, monkeypatch) == ["int8", "int4"]
    assert completed("fathom train --train.sched", capfd, monkeypatch) == ["--train.schedule"]
    assert completed("fathom train dem", capfd, monkeypatch) == ["demo"]
    assert "runs/mine" in completed("fathom generate ", capfd, monkeypatch)


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_a_shell_has_its_script(shell: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert completion.VARIABLE in capfd.readouterr().out
