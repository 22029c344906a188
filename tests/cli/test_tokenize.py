"""`fathom tokenize` shows what the tokenizer does: the same ids, and pieces that join to the text's bytes."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.adapters.export import export
from fathom.cli.main import main
from fathom.cli.tokenize import coloured, split
from fathom.tokenizer.characters import ByteTokenizer
from fathom.tokenizer.load import MODEL, save, to_model_file
from fathom.tokenizer.protocol import Special, Tokenizer
from fathom.tokenizer.sentencepiece import SentencePieceTokenizer
from fathom.tokenizer.template import LLAMA3
from tests.cli.models import model_folder
from tests.tokenizer.templates import bpe
from tests.tokenizer.test_sentencepiece import bytes_and

PIECES = bytes_and("▁", "T", "h", "e", "s", "a", "▁s", "he", "The")
Streams = pytest.CaptureFixture[str]
TEXT = "The sea\n🙂 ünï </s>"


def sentencepiece() -> SentencePieceTokenizer:
    return SentencePieceTokenizer(PIECES, Special(1, 2, names={"<s>": 1, "</s>": 2}, prefix=(1,)))


def shown(call: list[str], capfd: Streams) -> dict[str, list[object]]:
    assert main(["tokenize", *call, "--json"]) == 0
    values: dict[str, list[object]] = json.loads(capfd.readouterr().out)
    return values


@pytest.fixture(params=["byte", "bpe", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return {"byte": ByteTokenizer(), "bpe": bpe(LLAMA3), "sentencepiece": sentencepiece()}[request.param]


def test_ids_are_the_tokenizers(tokenizer: Tokenizer, tmp_path: Path, capfd: Streams) -> None:
    save(tokenizer, tmp_path / "t.json")
    values = shown([TEXT, str(tmp_path / "t.json")], capfd)
    assert values["ids"] == [*tokenizer.prefix, *tokenizer.encode(TEXT)]
    assert values["special"] == [True] * len(tokenizer.prefix) + [False] * len(tokenizer.encode(TEXT))


@given(text=st.text())
def test_pieces_join_to_the_text(text: str) -> None:
    for tokenizer in (ByteTokenizer(), bpe(LLAMA3)):
        tokens = split(tokenizer.encode(text), tokenizer)
        assert b"".join(token.piece for token in tokens) == text.encode()
        assert all(text.encode()[token.start : token.end] == token.piece for token in tokens)


def test_every_place_of_a_tokenizer(tmp_path: Path, capfd: Streams) -> None:
    """A run, a Hugging Face folder, a GGUF file and a tokenizer.model give the ids of the tokenizer in them."""
    made = sentencepiece()
    folder = model_folder(tmp_path / "run", made)
    export(folder, tmp_path / "hf", "hf")
    export(folder, tmp_path / "x.gguf", "gguf")
    (tmp_path / MODEL).write_bytes(to_model_file(made))
    expected = [*made.prefix, *made.encode(TEXT)]
    for place in ("run", "hf", "x.gguf", MODEL, "hf/tokenizer.json"):
        assert shown([TEXT, str(tmp_path / place)], capfd)["ids"] == expected, place


def test_special_tokens_are_shown_and_text_does_not_become_one(tmp_path: Path, capfd: Streams) -> None:
    save(sentencepiece(), tmp_path / "t.json")
    assert main(["tokenize", "a </s>", str(tmp_path / "t.json")]) == 0
    out = capfd.readouterr().out
    assert "\n<s>|" in out and "and 1 special" in out and "</s> in a text is ordinary characters" in out
    assert "\x1b" not in out


def test_colours_alternate() -> None:
    row = coloured(split([97, 98, 10], ByteTokenizer()), colours=True)
    assert row.plain == "ab⏎\n" and len({span.style for span in row.spans}) == 3


def test_built_in_tokenizers_are_learned_from_the_data(tmp_path: Path, capfd: Streams) -> None:
    (tmp_path / "x.txt").write_text("abcab" * 200)
    assert shown(["cab", "char", "--data", str(tmp_path / "x.txt")], capfd)["ids"] == [2, 0, 1]
    assert len(shown(["abcab", "bpe:300", "--data", str(tmp_path / "x.txt")], capfd)["ids"]) == 1
    assert shown(["é", "byte"], capfd)["ids"] == [0xC3, 0xA9]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (["runs", "x"], "expected the text first"),
        (["x", "byte", "--data", "y"], "has its vocabulary already"),
        (["x", "bpe"], "bpe:SIZE"),
        (["x", "nothing.json"], "does not exist"),
    ],
)
def test_wrong_calls(call: list[str], expected: str, capfd: Streams, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    assert main(["tokenize", str(tmp_path / "runs") if call[0] == "runs" else call[0], *call[1:]]) == 2
    assert expected in capfd.readouterr().err


def test_stdin(monkeypatch: pytest.MonkeyPatch, capfd: Streams) -> None:
    for call in (["-", "byte"], []):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("día\n".encode())))
        assert main(["tokenize", *call]) == 0
        assert "4 characters, 5 bytes" in capfd.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\xff")))
    assert main(["tokenize", "-"]) == 2
    assert "not UTF-8 at byte 1" in capfd.readouterr().err


def test_torch_is_not_loaded() -> None:
    code = "import sys; from fathom.cli.main import main; main(['tokenize', 'a']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
