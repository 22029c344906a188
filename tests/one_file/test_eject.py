"""A model as one file: the same logits to the bit, the same text, without fathom, and short enough to be read."""

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fathom
from fathom.cli.main import main
from fathom.errors import FathomError
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from fathom.one_file import eject as module
from fathom.one_file.eject import eject, pieces, whole
from fathom.one_file.written import source_of
from fathom.tokenizer.characters import CharacterTokenizer
from tests.architectures import ARCHITECTURES, BEYOND, GPT, LLAMA

EVERY = {**ARCHITECTURES, **BEYOND}
SHORT = ("bigram", "gpt", "llama", "qk_norm", "scaled", "window", "alibi", "experts, dense layers", "sinks", "xielu")
ALONE = """
import runpy, sys
sys.modules["fathom"] = None  # whoever imports it fails
sys.argv = [sys.argv[1], *sys.argv[2:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def model_of(config: ModelConfig) -> Transformer:
    """With weights that differ everywhere, also where they begin as 0 or 1."""
    torch.manual_seed(0)
    model = Transformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def names_of(text: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "ejected", "__file__": "ejected.py"}
    exec(compile(text, "ejected", "exec"), names)
    return names


@pytest.mark.parametrize(
    "name", [name if name in SHORT else pytest.param(name, marks=pytest.mark.slow) for name in EVERY]
)
def test_logits_are_the_same_to_the_bit(name: str) -> None:
    """Whole, over a cache in pieces as the package's own, and in bf16."""
    config = EVERY[name].resolved()
    source, fields = source_of(config)
    text = whole(source, fields, config, None, "one")
    assert "fathom." not in text and max(map(len, text.splitlines())) <= 120
    model, names = model_of(config), names_of(text)
    one = names["Transformer"]().eval()
    one.load_state_dict(model.state_dict())
    ids = torch.randint(0, config.vocab_size, (1, 17))
    with torch.no_grad():
        assert torch.equal(one(ids), model(ids))
        ours, theirs = fathom.KVCache(config, 1, 17), names["KVCache"](17, model.embed.weight)
        if model.position.continues(4, 17):
            for piece in ids.split([4, 1, 1, 11], dim=1):
                assert torch.equal(one(piece, theirs), model(piece, ours))
        assert torch.equal(one.bfloat16()(ids), model.bfloat16()(ids))


@pytest.mark.parametrize("config", [GPT, LLAMA])
def test_a_model_is_300_lines_that_a_linter_accepts(config: ModelConfig, tmp_path: Path) -> None:
    source, fields = source_of(replace(config, dropout=0.1).resolved())  # nothing of dropout is lost in training
    assert "nn.Dropout(config.dropout)" in source
    source, fields = source_of(config.resolved())
    path = tmp_path / "one.py"
    path.write_text(whole(source, fields, config.resolved(), None, "one"))
    assert len(path.read_text().splitlines()) <= 300
    subprocess.run([sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F,E9", path], check=True)
    assert not any(word in source for word in ("experts", "alibi", "Alibi", "sinks", "window", "cap"))


def test_the_file_runs_alone_and_writes_the_same_text(tmp_path: Path) -> None:
    ejected = eject("demo:llama-gqa", tmp_path / "one.py")
    assert str(ejected.lines) in str(ejected) and ejected.vocabulary is not None
    prompt, tokenizer = "The class", fathom.load("demo:llama-gqa")[1]
    assert tokenizer is not None
    ids = [str(id) for id in tokenizer.encode(prompt)]
    options = ["--n", "20", "--temperature", "0"]
    run = subprocess.run([sys.executable, "-c", ALONE, ejected.path, *ids, *options], capture_output=True, check=True)
    [expected] = fathom.generate("demo:llama-gqa", prompt, max_new_tokens=20, temperature=0)
    assert run.stdout.decode().removesuffix("\n") == expected.text
    names = runpy.run_path(str(ejected.path))
    ejected.vocabulary.unlink()
    model = names["load"](ejected.weights)
    assert set(model.state_dict()) == set(fathom.load("demo:llama-gqa")[0].state_dict())


def test_adapters_are_merged_and_packed_weights_written_out(tmp_path: Path) -> None:
    eject("demo:adapter", tmp_path / "one.py")
    adapted, _ = fathom.load("demo:adapter")
    ids = torch.arange(12)[None]
    one = runpy.run_path(str(tmp_path / "one.py"))["load"](tmp_path / "one.safetensors")
    torch.testing.assert_close(one(ids), adapted(ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("first * cos - second * sin", "first * cos + second * sin"),
        ("weight, self.eps)", "weight, 1.01 * self.eps)"),
        ("cache.positions((t := ids.shape[1]))", "torch.arange((t := ids.shape[1]))"),
        (
            "cache is None else cache",
            "cache is None else cache\n        ids = ids if cache.length or hasattr(cache, 'store') else ids.flip(1)",
        ),
    ],
)
def test_a_model_that_comes_out_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    """Neither where it is off by little, nor where it is so only over a cache, or only without one."""
    source, fields = source_of(fathom.load("demo:llama-gqa")[0].config)
    assert source.count(old) == 1
    monkeypatch.setattr(module, "source_of", lambda config: (source.replace(old, new), fields))
    with pytest.raises(FathomError, match="not the model's"):
        eject("demo:llama-gqa", tmp_path / "one.py")
    assert not list(tmp_path.iterdir())


def test_with_a_training_loop_it_learns_as_the_package_does(tmp_path: Path) -> None:
    """From the same weights the losses of twelve steps are those of the package's model, to the bit."""
    eject("demo:llama-gqa", tmp_path / "one.py", training=True)
    names = runpy.run_path(str(tmp_path / "one.py"))
    ids = torch.arange(400) % 7
    torch.manual_seed(3)
    one = names["start"](names["Transformer"]())
    theirs = Transformer(fathom.load("demo:llama-gqa")[0].config)
    theirs.load_state_dict(one.state_dict())
    for name, weight in theirs.state_dict().items():
        fresh = Transformer(theirs.config).state_dict()[name]
        assert float(weight.std(correction=0)) == pytest.approx(float(fresh.std(correction=0)), rel=0.1, abs=1e-9)
    losses = []
    for model in (one, theirs):
        torch.manual_seed(4)
        losses.append(list(names["train"](model, ids, 12, batch=4, length=16)))
    assert losses[0] == losses[1] and losses[0][-1] < losses[0][0] - 0.5


@pytest.mark.parametrize("text", ["0123\n", "a b"])
def test_the_bytes_of_tokens_are_those_of_the_tokenizer(text: str) -> None:
    """Also where no letter is in the vocabulary; a text is the bytes of its tokens after another one's."""
    tokenizer = CharacterTokenizer.train([text])
    assert b"".join(pieces(tokenizer)[id] for id in tokenizer.encode(text)) == text.encode()


def test_a_space_that_begins_a_word_is_kept() -> None:
    tokenizer = fathom.load("demo:llama-gqa")[1]
    assert tokenizer is not None
    ids = tokenizer.encode("The class statement defines a class.")
    assert b"".join(pieces(tokenizer)[id] for id in ids).decode().strip() == "The class statement defines a class."


@pytest.mark.parametrize(
    ("out", "line"), [("one.txt", "no name of a Python file"), ("my-gpt.py", "no name of a"), ("there.py", "exists")]
)
def test_bad_names(out: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there.safetensors").write_bytes(b"mine")
    assert main(["eject", "demo:gpt-tiny", "-o", str(tmp_path / out)]) == 2
    said = capsys.readouterr().err.strip()
    assert line in said and "\n" not in said and (tmp_path / "there.safetensors").read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == ["there.safetensors"]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eject", "demo:gpt-tiny", "-o", str(tmp_path / "one.py"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["lines"] <= 300 and Path(told["weights"]).is_file()
