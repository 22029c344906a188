"""Damaged tokenizer files: each opens with the ids that the reference library reads in it, or ends in one line.

Other kinds of files, without such a library, are in test_hugging_face_files and test_tiktoken.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
import tokenizers

from fathom.formats import gguf
from fathom.tokenizer.gguf import from_gguf, to_gguf
from fathom.tokenizer.load import load, read_folder
from fathom.tokenizer.protocol import Tokenizer
from fathom.tokenizer.sentencepiece import read_sentencepiece
from tests.mutants import survive
from tests.tokenizer.folders import ANY, put, small
from tests.tokenizer.sentencepieces import train
from tests.tokenizer.test_hugging_face_files import tiny

TEXTS = ["a bc, <s> é  東", "the cat sat\n\n on <tool>the  mat"]


def use(tokenizer: Tokenizer | None) -> Tokenizer:
    assert tokenizer is not None
    for text in TEXTS:
        tokenizer.decode(tokenizer.encode(text))
    return tokenizer


def as_the_library(path: Path) -> None:
    ours = use(load(path))
    try:
        theirs = tokenizers.Tokenizer.from_file(str(path))
    except Exception:  # it refuses a field that is there twice, of which JSON takes the last
        return
    theirs.encode_special_tokens = True
    theirs.no_truncation()
    theirs.no_padding()
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids, text


def as_sentencepiece_does(path: Path) -> None:
    ours = use(read_sentencepiece(path, 1000))
    try:
        theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except RuntimeError:  # it also parses the trainer's settings, which mean nothing here
        return
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text), text


def folder_of(path: Path) -> None:
    use(read_folder(path.parent, ANY))


def of_gguf(path: Path) -> None:
    tokenizer = from_gguf(gguf.read_header(path).metadata)
    if tokenizer is not None:  # damage may hide the key that says which kind it is
        use(tokenizer)


def byte_level(folder: Path) -> Path:
    return put(folder, tokenizer__json=small()) / "tokenizer.json"


def byte_fallback(folder: Path) -> Path:
    return put(folder, tokenizer__json=tiny()) / "tokenizer.json"


def model(folder: Path) -> Path:
    (folder / "tokenizer.model").write_bytes(train(user_defined_symbols=["<tool>", "!"]))
    return folder / "tokenizer.model"


def added_tokens(folder: Path) -> Path:
    (folder / "tokenizer.model").write_bytes(train())
    put(folder, tokenizer_config__json={"eos_token": "<end>"})
    return put(folder, added_tokens__json={"<end>": 330, "<tool>": 331}) / "added_tokens.json"


def keys(folder: Path) -> Path:
    (folder / "tokenizer.model").write_bytes(train())
    gguf.write(folder / "a.gguf", to_gguf(load(folder / "tokenizer.model"), 400), {})
    return folder / "a.gguf"


def bpe_keys(folder: Path) -> Path:
    gguf.write(folder / "a.gguf", to_gguf(load(byte_level(folder)), 400), {})
    return folder / "a.gguf"


KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], None]]] = {
    "byte-level tokenizer.json": (byte_level, as_the_library),
    "byte-fallback tokenizer.json": (byte_fallback, as_the_library),
    "tokenizer.model": (model, as_sentencepiece_does),
    "added_tokens.json": (added_tokens, folder_of),
    "GGUF, llama": (keys, of_gguf),
    "GGUF, gpt2": (bpe_keys, of_gguf),
}


@pytest.mark.parametrize("count", [200, pytest.param(2_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_mutants(kind: str, count: int, tmp_path: Path) -> None:
    make, read = KINDS[kind]
    survive(read, make(tmp_path), count)
