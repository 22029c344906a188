"""What each of our tokenizers is in the words of the `tokenizers` library: the values of a `tokenizer.json`.

Encoding with it gives the same ids, and its bos goes before every text as ours does. Does not know files.
"""

from collections.abc import Callable, Mapping
from typing import Any

from fathom.errors import FathomError
from fathom.tokenizer.bpe import BPETokenizer, byte_letters
from fathom.tokenizer.byte import ByteTokenizer
from fathom.tokenizer.byte_fallback import PREPEND, REPLACE, SPACE, ByteFallbackTokenizer
from fathom.tokenizer.character import CharacterTokenizer
from fathom.tokenizer.library import BYTE_LEVEL, describe
from fathom.tokenizer.merges import merges_of
from fathom.tokenizer.pieces import NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from fathom.tokenizer.protocol import Tokenizer
from fathom.tokenizer.sentencepiece import SentencePieceTokenizer

FIRST_SPACE = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
SPACES = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}


def as_library(tokenizer: Tokenizer) -> dict[str, Any]:
    """The values of a `tokenizer.json`. FathomError where the library has no words for what this tokenizer does."""
    values = WORDS[tokenizer.kind](tokenizer)
    known = {token["content"] for token in values["added_tokens"]}
    missing = {name: id for name, id in tokenizer.special.names.items() if name not in known}
    added = sorted([*values["added_tokens"], *describe({}, missing, None)["added_tokens"]], key=lambda one: one["id"])
    return values | {"added_tokens": added, "post_processor": begin_with(tokenizer)}


def begin_with(tokenizer: Tokenizer) -> dict[str, Any] | None:
    """The step that puts bos before a text, and between nothing else."""
    if tokenizer.bos is None:
        return None
    name = spelled(tokenizer, tokenizer.bos)
    start, text = {"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    second = [{"SpecialToken": {"id": name, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    special = {name: {"id": name, "ids": [tokenizer.bos], "tokens": [name]}}
    pair = [start, text, *second]
    return {"type": "TemplateProcessing", "single": [start, text], "pair": pair, "special_tokens": special}


def spelled(tokenizer: Tokenizer, id: int) -> str:
    """How a special token is written."""
    for name, known in tokenizer.special.names.items():
        if known == id:
            return name
    raise FathomError(f"special token {id} has no name; expected one to write it by")


def _byte(tokenizer: Tokenizer) -> dict[str, Any]:
    model = {"type": "BPE", "vocab": byte_letters(), "merges": []}
    return describe(model, {}, {**BYTE_LEVEL, "use_regex": False})


def _character(tokenizer: CharacterTokenizer) -> dict[str, Any]:
    """A word for each; others are an error of the library too, which knows no unknown word here."""
    model = {"type": "WordLevel", "vocab": {c: id for id, c in enumerate(tokenizer.characters)}, "unk_token": "<unk>"}
    each = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
    return describe(model, {}, each, decoder={"type": "Fuse"})


def _sentencepiece(tokenizer: SentencePieceTokenizer) -> dict[str, Any]:
    """A BPE whose merges follow from the scores."""
    pieces = tokenizer.pieces
    if pieces.squeeze_spaces or UNUSED in pieces.types:
        raise FathomError(
            "SentencePiece with runs of spaces made one, or unused pieces; a tokenizer.json has no such rule"
        )
    ranks = {
        text: -score
        for text, score, type in zip(pieces.texts, pieces.scores, pieces.types)
        if type == NORMAL or (type == USER_DEFINED and len(text) == 1)
    }
    _refuse_ties(ranks)
    unknown = pieces.texts[pieces.types.index(UNKNOWN)]
    model = {
        "type": "BPE",
        "unk_token": unknown,
        "fuse_unk": True,
        "byte_fallback": True,
        "vocab": {text: id for id, text in enumerate(pieces.texts)},
        "merges": merges_of(ranks),
    }
    spaces = {"type": "Sequence", "normalizers": [PREPEND, REPLACE]} if pieces.dummy_prefix else REPLACE
    steps = [SPACES, {"type": "ByteFallback"}, {"type": "Fuse"}, *([FIRST_SPACE] if pieces.dummy_prefix else [])]
    special = {**tokenizer.special.names, unknown: pieces.texts.index(unknown)}
    return describe(model, special, None, spaces, {"type": "Sequence", "decoders": steps})


def _refuse_ties(ranks: Mapping[str, float]) -> None:
    """FathomError where of two different pairs SentencePiece joins the leftmost, which no order of merges says."""
    seen: dict[float, str] = {}
    for text, rank in ranks.items():
        if len(text) > 1 and len(set(seen.setdefault(rank, text)) | set(text)) > 1 and seen[rank] != text:
            raise FathomError(
                f"pieces {seen[rank][:40]!r} and {text[:40]!r} have the same score; a tokenizer.json needs an order"
            )


WORDS: dict[str, Callable[[Any], dict[str, Any]]] = {
    ByteTokenizer.kind: _byte,
    CharacterTokenizer.kind: _character,
    BPETokenizer.kind: lambda tokenizer: tokenizer.to_json()["tokenizer"],
    ByteFallbackTokenizer.kind: lambda tokenizer: tokenizer.to_json()["tokenizer"],
    SentencePieceTokenizer.kind: _sentencepiece,
}
