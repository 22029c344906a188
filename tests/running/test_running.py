"""A path runs prepared for inference, a model in memory exactly as it is, and both say the same."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fathom
from fathom.backend.inference import InferenceModel
from fathom.errors import FathomError
from fathom.native.build import library
from fathom.running import ready as rooms
from fathom.running.ready import ready
from fathom.tokenizer.characters import ByteTokenizer
from tests.cli.models import model_folder

CHOICES = {"temperature": 0, "max_new_tokens": 8}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model", ByteTokenizer())


def test_a_path_and_a_model_in_memory_write_the_same(folder: Path) -> None:
    model, tokenizer = fathom.load(folder, device="cpu")
    (expected,) = fathom.generate(model, tokenizer, "Hello", **CHOICES)
    assert str(expected) == "Hello" + expected.text and "8 tokens" in repr(expected)
    for call in ((folder, "Hello"), (str(folder), tokenizer, "Hello"), (folder, None, "Hello")):
        (written,) = fathom.generate(*call, **CHOICES)  # type: ignore[arg-type]
        assert written.tokens == expected.tokens
    pieces = fathom.stream(folder, "Hello", **CHOICES)
    assert "".join(piece.text for piece in pieces) == expected.text
    assert [row.prompt for row in fathom.generate(folder, ["a", [98]], **CHOICES)] == ["a", "b"]
    assert fathom.generate(folder, **CHOICES)[0].prompt == ""


@pytest.mark.skipif(library("step") is None or torch.cuda.is_available(), reason="nothing to prepare here")
def test_only_a_path_is_prepared(folder: Path) -> None:
    model, tokenizer = fathom.load(folder)
    assert ready(model, tokenizer)[0] is model and not isinstance(model, InferenceModel)
    assert isinstance(ready(folder)[0], InferenceModel)
    assert isinstance(rooms.ready_draft(folder, ByteTokenizer()), InferenceModel)


def test_a_conversation(folder: Path, tmp_path: Path) -> None:
    talk = fathom.chat(folder, system="Be brief.", **CHOICES)
    answer = talk.ask("Hello")
    said = fathom.chat(folder, system="Be brief.", **CHOICES).say("Hello")
    assert answer == "".join(piece.text for piece in said).strip()
    talk.save(str(tmp_path / "talk.json"))
    again = fathom.chat(folder, stop="x")
    again.load(str(tmp_path / "talk.json"))
    assert [message.role for message in again.messages] == ["system", "user", "assistant"]
    assert "x" in again.options.stop


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda model: fathom.generate(model, "Hello"), "without its tokenizer"),
        (lambda model: fathom.generate(model, "tokens", "Hello"), "expected a tokenizer"),
        (lambda model: fathom.generate(None, "Hello"), "model is a NoneType"),
        (lambda model: fathom.generate("nowhere/none/model", "Hello"), "does not exist"),
        (lambda model: fathom.chat(model), "without its tokenizer"),
        (lambda model: fathom.verify(model), "Transformer was given; expected the path"),
    ],
)
def test_what_is_missing_is_named(call: object, words: str, folder: Path) -> None:
    with pytest.raises(FathomError, match=words):
        call(fathom.load(folder, device="cpu")[0])  # type: ignore[operator]


def test_generating_loads_little_besides_torch(folder: Path) -> None:
    call = ["generate", str(folder), "-n", "2", "--device", "cpu"]
    code = f"import sys\nfrom fathom.cli.main import main\nprint(main({call!r}), *sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    loaded = {*done.stdout.splitlines()}
    assert {"0", "torch"} <= loaded and not loaded & {"matplotlib", "huggingface_hub", "torch._dynamo"}, done.stderr
