"""Tokenizers from a word (`char`, `byte`, `bpe:SIZE`), and from a file or folder, recognised by what is in it.

Ours are one JSON file, which `save` writes. Of others are known: Hugging Face's folders and `tokenizer.json`, both
kinds of `tokenizer.model`, GPT-2's `merges.txt` and llama2.c's `tokenizer.bin`. Each is read in a module of its own.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from fathom.errors import FathomError, near
from fathom.files import refuse_pipes, replacing
from fathom.tokenizer import bpe, library, llama2c, sentencepiece, tiktoken
from fathom.tokenizer.bpe import BPETokenizer
from fathom.tokenizer.byte_fallback import ByteFallbackTokenizer
from fathom.tokenizer.characters import ByteTokenizer, CharacterTokenizer
from fathom.tokenizer.protocol import Tokenizer, read_special
from fathom.tokenizer.sentencepiece import as_sentencepiece

FILE = "tokenizer.json"
ANY_SIZE = 1 << 20  # ids, where there is no model to say how many: four times the largest vocabulary in use


def make(spec: str, chunks: Iterable[str]) -> Tokenizer:
    """The tokenizer that `spec` names: learned from the text in `chunks`, or loaded from a file or run directory."""
    kind, _, size = spec.partition(":")
    if kind == "bpe" and size.isdecimal():
        return BPETokenizer.train(chunks, int(size))
    if spec == "char":
        return CharacterTokenizer.train(chunks)
    if spec == "byte":
        return ByteTokenizer()
    if spec and Path(spec).exists():
        return load(Path(spec))
    wanted = "char, byte, bpe:SIZE (such as bpe:4096) or a file"
    raise FathomError(f"tokenizer {spec!r}: expected {wanted}{near(kind, ('char', 'byte', 'bpe:4096'))}")


def save(tokenizer: Tokenizer, path: Path) -> None:
    """Write the tokenizer as JSON; the file is there complete or not at all."""
    with replacing(path) as file:
        file.write(json.dumps(tokenizer.to_json(), ensure_ascii=False).encode("utf-8"))


def load(path: Path) -> Tokenizer:
    """The tokenizer in a file or a folder, whatever it is called."""
    refuse_pipes(path)
    if path.is_dir():
        from fathom.tokenizer import hugging_face  # which reads its files with this module

        if found := hugging_face.read_folder(path, ANY_SIZE):
            return found
        raise FathomError(f"{path} holds no tokenizer; expected {FILE}, tokenizer.model or merges.txt in it")
    try:
        with path.open("rb") as file:
            start = file.read(1 << 12)
        if tiktoken.is_tiktoken(path) or sentencepiece.is_sentencepiece(path):
            return read_model_file(path, ANY_SIZE)
        if bpe.is_merges(path):
            return bpe.from_merges(path)
    except OSError as problem:
        raise FathomError(f"{path}: cannot be read ({problem.strerror}); expected a tokenizer file") from None
    return llama2c.read_tokenizer_bin(path, ANY_SIZE) if b"\0" in start else _json(path)


def _json(path: Path) -> Tokenizer:
    values = library.read_object(path)
    try:
        return from_json(values)
    except FathomError as problem:
        raise FathomError(f"{path}: {problem}") from None


def read_model_file(path: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer in a `tokenizer.model`: SentencePiece's or tiktoken's, of at most `vocab_size` ids."""
    try:
        read = tiktoken.read_tiktoken if tiktoken.is_tiktoken(path) else sentencepiece.read_sentencepiece
    except OSError as problem:
        raise FathomError(f"{path}: cannot be read ({problem.strerror}); expected a tokenizer.model") from None
    return read(path, vocab_size)


def to_model_file(tokenizer: Tokenizer) -> bytes:
    """The bytes of a `tokenizer.model`. FathomError: neither of its two formats can say what this tokenizer is."""
    tokenizer = as_sentencepiece(tokenizer)
    if isinstance(tokenizer, sentencepiece.SentencePieceTokenizer):
        return sentencepiece.to_sentencepiece(tokenizer)
    return tiktoken.to_tiktoken(tokenizer)


def from_json(values: Any) -> Tokenizer:
    """The tokenizer whose `to_json` these values are, or that a Hugging Face `tokenizer.json` describes."""
    if not isinstance(values, Mapping):
        raise FathomError(f"a tokenizer is {type(values).__name__}; expected an object with 'kind'")
    if "kind" not in values and "model" in values:
        from fathom.tokenizer import hugging_face

        return hugging_face.from_values(values)
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise FathomError(f"tokenizer kind is {kind!r}; this version knows {', '.join(KINDS)}{near(str(kind), KINDS)}")
    return KINDS[kind](values)


def _character(values: Mapping[str, Any]) -> Tokenizer:
    characters = values.get("characters")
    if not isinstance(characters, str):
        raise FathomError(f"'characters' is {type(characters).__name__}; expected text")
    return CharacterTokenizer(characters)


def _bpe(values: Mapping[str, Any]) -> Tokenizer:
    special = read_special(values)
    kind = BPETokenizer if values["kind"] == BPETokenizer.kind else ByteFallbackTokenizer
    return kind(library.parse(values.get("tokenizer")), special)


KINDS: dict[str, Callable[[Mapping[str, Any]], Tokenizer]] = {
    "char": _character,
    "byte": lambda values: ByteTokenizer(),
    "bpe": _bpe,
    "byte_fallback": _bpe,
    "sentencepiece": sentencepiece.from_json,
}
