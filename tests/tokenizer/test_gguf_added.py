"""Gemma's kind of tokenizer, and added tokens, in a GGUF file: the same ids in llama.cpp, or one line says why not."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken

from fathom.errors import FathomError
from fathom.tokenizer.gguf import from_gguf, to_gguf
from fathom.tokenizer.gguf_added import overlapping
from fathom.tokenizer.load import read_folder
from fathom.tokenizer.protocol import Tokenizer
from fathom.tokenizer.sentencepiece import read_sentencepiece
from fathom.tokenizer.tokenizer_json import from_library_json
from tests.tokenizer.hostile import hostile
from tests.tokenizer.pipelines import PIPELINES
from tests.tokenizer.sentencepieces import train
from tests.tokenizer.test_gguf import G, write

DEFINED = ["<tool>", "\n", "\n\n", "\n\n\n", "</h1>", "▁▁", "▁▁▁"]


def with_tokens(name: str, *tokens: str | AddedToken) -> Tokenizer:
    hf = tokenizers.Tokenizer.from_str(json.dumps(PIPELINES[name]()))
    hf.add_tokens([AddedToken(token, normalized=False) if isinstance(token, str) else token for token in tokens])
    return from_library_json(json.loads(hf.to_str()))


def defined_by_sentencepiece(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.model"
    path.write_bytes(train(add_dummy_prefix=False, remove_extra_whitespaces=False, user_defined_symbols=DEFINED))
    return read_sentencepiece(path, 1000)


MADE: dict[str, Any] = {
    "gemma": lambda _: with_tokens("gemma"),
    "gemma, added": lambda _: with_tokens("gemma", *DEFINED[:-2]),
    "llama 2, added": lambda _: with_tokens("llama 2", *DEFINED[:-2]),
    "gpt-2, added": lambda _: with_tokens("gpt-2", *DEFINED[:-2]),
    "user-defined": defined_by_sentencepiece,
}


@pytest.mark.parametrize("name", MADE)
def test_llama_cpp_gives_the_same_ids(name: str, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    ours = MADE[name](tmp_path)
    values = to_gguf(ours, ours.vocab_size + 3)
    write(tmp_path / "vocabulary.gguf", values)
    theirs = llama_cpp.Llama(str(tmp_path / "vocabulary.gguf"), vocab_only=True, verbose=False)
    again = from_gguf(values)
    assert again is not None
    for text in hostile(600, [*DEFINED[:-2], "  ", "   "]):
        if "\0" in text or "▁" in text:
            continue  # llama.cpp writes spaces so
        ids = ours.encode(text)
        assert theirs.tokenize(text.encode(), add_bos=False, special=False) == ids, repr(text)
        assert again.encode(text) == ids, repr(text)


def test_gemma_3_is_written(shared_data: Path) -> None:
    """Without the one token for which the model has no row."""
    ours = read_folder(shared_data / "tokenizers" / "gemma3", 262_144)
    assert ours is not None and ours.vocab_size == 262_145
    values = to_gguf(ours, 262_144)
    again = from_gguf(values)
    assert again is not None and (len(values[G + "tokens"]), values[G + "add_space_prefix"]) == (262_144, False)
    for text in hostile(300, ["<table>", "\n\n", "  ", "<end_of_turn>"]):
        if "▁" not in text:
            assert again.encode(text) == ours.encode(text), repr(text)


@pytest.mark.parametrize(
    ("name", "tokens", "problem"),
    [
        ("gpt-2", [AddedToken("<x>", lstrip=True)], "added token '<x>' has lstrip"),
        ("gemma", [AddedToken("<x>", single_word=True)], "added token '<x>' has single_word"),
        ("llama 2", [AddedToken("<x>", normalized=True)], "added token '<x>' has normalized"),
        ("gpt-2", ["<ab>", "b>c"], "added tokens '<ab>' and 'b>c' may overlap"),
        ("lacks bytes", [], "no token for the byte 0x"),
        ("unigram", [], "a Unigram tokenizer; GGUF, as llama.cpp reads it, supports only"),
        ("wordpiece", [], "a WordPiece tokenizer; GGUF, as llama.cpp reads it, supports only"),
    ],
)
def test_what_llama_cpp_lacks_is_named(name: str, tokens: list[Any], problem: str) -> None:
    ours = with_tokens(name, *tokens)
    with pytest.raises(FathomError, match=problem):
        to_gguf(ours, ours.vocab_size)


def test_spaces_after_user_defined_pieces_are_not_written(tmp_path: Path) -> None:
    """SentencePiece puts a space before the text alone, llama.cpp after each such piece too."""
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train(add_dummy_prefix=True, remove_extra_whitespaces=False, user_defined_symbols=["<tool>"]))
    ours = read_sentencepiece(path, 1000)
    with pytest.raises(FathomError, match="spaces around the added token '<tool>'"):
        to_gguf(ours, ours.vocab_size)


def test_runs_do_not_overlap() -> None:
    assert overlapping(["\n", "\n\n", "\n\n\n", "<a>", "</a>"]) is None
    assert overlapping(["\n\n", "\n\nx"]) == ("\n\n", "\n\nx")
