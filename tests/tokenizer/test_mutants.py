"""Damaged tokenizer files: each opens with the ids that the reference library reads in it, or ends in one line.

Other kinds of files, without such a library, are in test_hugging_face_files and test_tiktoken.
"""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from tokenizers import models, pre_tokenizers

from fathom.formats import gguf
from fathom.tokenizer.gguf import from_gguf, to_gguf
from fathom.tokenizer.load import load, read_folder
from fathom.tokenizer.protocol import Tokenizer
from fathom.tokenizer.sentencepiece import read_sentencepiece
from fathom.tokenizer.words import LLAMA3_PATTERN
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


def as_listed(path: Path) -> None:
    """Every token of added_tokens.json has its id."""
    ours = use(read_folder(path.parent, ANY))
    for text, id in json.loads(path.read_text(encoding="utf-8")).items():
        assert ours.special.names.get(text) == id or ours.decode([id]) == text, text


def as_bpe_of_files(path: Path) -> None:
    """vocab.json with merges.txt, as the library reads the two."""
    ours = use(read_folder(path.parent, ANY))
    try:
        model = models.BPE.from_file(str(path.with_name("vocab.json")), str(path.with_name("merges.txt")))
        theirs = tokenizers.Tokenizer(model)
        theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        ids = [theirs.encode(text).ids for text in TEXTS]
    except Exception:
        return
    assert [ours.encode(text) for text in TEXTS] == ids


def as_tiktoken_does(path: Path) -> None:
    ours = use(load(path))
    tiktoken = pytest.importorskip("tiktoken", reason="needs the extra `peers`")
    try:
        lines = [line.split() for line in path.read_bytes().splitlines() if line]
        ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
        theirs = tiktoken.Encoding("ranks", pat_str=LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens={})
        ids = [theirs.encode_ordinary(text) for text in TEXTS]
    except BaseException:  # its panics are no Exception
        return
    assert [ours.encode(text) for text in TEXTS] == ids


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


def two_files(folder: Path) -> Path:
    model = small()["model"]
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"])])
    return put(folder, vocab__json=model["vocab"], merges__txt=merges, config__json={"model_type": "gpt2"})


def ranks(folder: Path) -> Path:
    tokens = [bytes([byte]) for byte in range(256)] + [b"th", b"the", b" the", b" c", b"at", b"cat", b" cat", b"\n\n"]
    lines = [b"%s %d" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens)]
    (folder / "tokenizer.model").write_bytes(b"\n".join(lines) + b"\n")
    return folder / "tokenizer.model"


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
    "added_tokens.json": (added_tokens, as_listed),
    "vocab.json": (lambda folder: two_files(folder) / "vocab.json", as_bpe_of_files),
    "merges.txt": (lambda folder: two_files(folder) / "merges.txt", as_bpe_of_files),
    "ranks of tiktoken": (ranks, as_tiktoken_does),
    "GGUF, llama": (keys, of_gguf),
    "GGUF, gpt2": (bpe_keys, of_gguf),
}


@pytest.mark.parametrize("count", [200, pytest.param(2_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_mutants(kind: str, count: int, tmp_path: Path) -> None:
    make, read = KINDS[kind]
    survive(read, make(tmp_path), count)
