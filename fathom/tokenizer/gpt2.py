"""GPT-2's tokenizer files: `merges.txt`, with `vocab.json` beside it or without.

One merge stands in each line after a line `#version`. The vocabulary follows from the merges: GPT-2's letters for the
256 bytes, then what each merge makes, then <|endoftext|> (Radford et al. 2019, encoder.py).
"""

import codecs
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fathom.errors import FathomError
from fathom.tokenizer import library
from fathom.tokenizer.bpe import END, BPETokenizer, byte_letters
from fathom.tokenizer.protocol import Special

MERGES, VOCABULARY = "merges.txt", "vocab.json"
LINE = 4096  # bytes: a longer line is no merge


def is_merges(path: Path) -> bool:
    """Whether the file begins with lines of two words each, as JSON never does."""
    with path.open("rb") as file:
        start = file.read(LINE).removeprefix(codecs.BOM_UTF8)
    lines = [line for line in start.split(b"\n")[:3] if line and not line.startswith(b"#version")]
    pairs = all(len(line.rstrip(b"\r").split(b" ")) == 2 for line in lines)
    return bool(lines) and pairs and b"\0" not in start and start.lstrip()[:1] not in (b"{", b"[")


def read_merges(path: Path) -> list[tuple[str, str]]:
    """The pairs in the lines of a merges file, in their order."""
    try:
        if (size := path.stat().st_size) > library.LIMIT:
            raise FathomError(f"{path} has {size:,} bytes; expected merges in at most {library.LIMIT:,}")
        lines = path.read_bytes().decode("utf-8").split("\n")  # not splitlines: U+0085 is one of the letters
    except OSError as problem:
        raise FathomError(f"{path}: cannot be read ({problem.strerror}); expected merges") from None
    except UnicodeDecodeError as problem:
        raise FathomError(f"{path}: byte {problem.start} is not UTF-8; expected two tokens in each line") from None
    pairs = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#version"):
            continue
        left, _, right = line.rstrip("\r").partition(" ")
        if not left or not right or " " in right:
            raise FathomError(f"{path}: line {number} is {line[:40]!r}; expected two tokens and a space between them")
        pairs.append((left, right))
    return pairs


def from_merges(path: Path) -> BPETokenizer:
    """The tokenizer of a merges file alone."""
    pairs = read_merges(path)
    vocabulary = {letter: id for id, letter in enumerate(byte_letters())}
    for pair in pairs:
        if (token := "".join(pair)) in vocabulary or not vocabulary.keys() >= set(pair):
            raise FathomError(
                f"{path}: {str(pair)[:80]} makes a token there is, or of one there is not; expected a new one"
            )
        vocabulary[token] = len(vocabulary)
    return build(vocabulary, pairs, [END])


def from_files(folder: Path, names: Iterable[str], settings: Mapping[str, Any]) -> BPETokenizer:
    """The tokenizer of a folder's vocabulary and merges; `names` are its special tokens, those that it has."""
    vocabulary, pairs = library.read_object(folder / VOCABULARY), read_merges(folder / MERGES)
    for token, id in vocabulary.items():
        if type(id) is not int or not 0 <= id < 1 << 32:
            raise FathomError(f"{folder / VOCABULARY}: {token[:40]!r} is {str(id)[:40]!r}; expected a token id")
    try:
        special = sorted({name for name in names if name in vocabulary}, key=vocabulary.__getitem__)
        return build(vocabulary, pairs, special, settings.get("add_prefix_space") is True)
    except FathomError as problem:
        raise FathomError(f"{folder / VOCABULARY}: {problem}") from None


def build(
    vocabulary: Mapping[str, int], pairs: list[tuple[str, str]], special: list[str], add_prefix_space: bool = False
) -> BPETokenizer:
    """A BPE of GPT-2's words. Special tokens that the vocabulary lacks come after it."""
    model = {"type": "BPE", "vocab": vocabulary, "merges": pairs}
    places = range(len(vocabulary), len(vocabulary) + len(special))
    names = {name: vocabulary.get(name, place) for name, place in zip(special, places)}
    hf = library.parse(library.describe(model, names, {**library.BYTE_LEVEL, "add_prefix_space": add_prefix_space}))
    return BPETokenizer(hf, Special(eos=names.get(END), names=names))
