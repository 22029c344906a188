"""Tokenizers as one JSON file, and from a word: `char`, `byte`, `bpe:SIZE` or a file.

Reads what `save` wrote and the `tokenizer.json` of Hugging Face's `tokenizers` where it is a byte-level BPE.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from fathom.atomic import replacing
from fathom.errors import FathomError, near
from fathom.tokenizer import sentencepiece
from fathom.tokenizer.bpe import BPETokenizer
from fathom.tokenizer.byte import ByteTokenizer
from fathom.tokenizer.character import CharacterTokenizer
from fathom.tokenizer.protocol import Special, Tokenizer, read_special

FILE = "tokenizer.json"
ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>")  # what published byte-level tokenizers end a document with


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
    """The tokenizer in a JSON file, or in the `tokenizer.json` of a directory."""
    path = path / FILE if path.is_dir() else path
    try:
        values = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as problem:
        raise FathomError(f"{path}: cannot be read ({problem.strerror}); expected a tokenizer file") from None
    except (ValueError, RecursionError) as problem:
        raise FathomError(f"{path}: not a tokenizer file: expected JSON ({problem})") from None
    try:
        return from_json(values)
    except FathomError as problem:
        raise FathomError(f"{path}: {problem}") from None


def from_json(values: Any) -> Tokenizer:
    """The tokenizer whose `to_json` these values are, or that a Hugging Face `tokenizer.json` describes."""
    if not isinstance(values, Mapping):
        raise FathomError(f"a tokenizer is {type(values).__name__}; expected an object with 'kind'")
    if "kind" not in values and "model" in values:
        return _hugging_face(values)
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
    return BPETokenizer(_parse(values.get("tokenizer")), special)


def _hugging_face(values: Mapping[str, Any]) -> Tokenizer:
    hf = _parse(values)
    ends = {name: id for name in ENDS if (id := hf.token_to_id(name)) is not None}
    return BPETokenizer(hf, Special(eos=next(iter(ends.values()), None), names=ends))


def _parse(values: Any) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(values))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as problem:  # the library raises Exception itself, and its panics are not even that
        raise FathomError(f"not a tokenizer of the tokenizers library ({problem})") from None


KINDS: dict[str, Callable[[Mapping[str, Any]], Tokenizer]] = {
    "char": _character,
    "byte": lambda values: ByteTokenizer(),
    "bpe": _bpe,
    "sentencepiece": sentencepiece.from_json,
}
