"""A tokenizer as JSON: our own objects with a `kind`, and the `tokenizer.json` of the `tokenizers` library.

The library encodes with what `to_library_json` returns to the same ids as ours, and puts the same ids before a text.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tokenizers

from fathom.errors import FathomError, near
from fathom.json_file import read_object
from fathom.tokenizer import sentencepiece
from fathom.tokenizer.added_tokens import Entry, with_added
from fathom.tokenizer.bpe import (
    END_OF_TEXT,
    PREPEND,
    REPLACE,
    TO_SPACES,
    BPETokenizer,
    ByteFallbackTokenizer,
    byte_letters,
    is_byte_level,
    is_llama,
)
from fathom.tokenizer.bpe_files import merges_of, split_by
from fathom.tokenizer.characters import ByteTokenizer, CharacterTokenizer
from fathom.tokenizer.hf_library import MAX_BYTES, build_json, library_errors, parse
from fathom.tokenizer.library import LibraryTokenizer
from fathom.tokenizer.pieces import NORMAL, UNKNOWN, UNUSED, USER_DEFINED, filler
from fathom.tokenizer.protocol import FLAGS, Special, Tokenizer
from fathom.tokenizer.sentencepiece import SentencePieceTokenizer

END_TOKENS = (END_OF_TEXT, "</s>", "<|end_of_text|>")  # what published tokenizers end a document with
STRIP_FIRST_SPACE = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def read_json(path: Path, added: Sequence[Entry] = ()) -> Tokenizer:
    """The tokenizer in a JSON file of either kind; `added`: tokens that one of the library lacks."""
    values = read_object(path, MAX_BYTES)
    try:
        return from_json(with_added(values, added))
    except FathomError as problem:
        raise FathomError(f"{path}: {problem}") from None


def from_json(values: Any) -> Tokenizer:
    """The tokenizer whose `to_json` these values are, or that a `tokenizer.json` of the library describes."""
    if not isinstance(values, Mapping):
        raise FathomError(f"a tokenizer is {type(values).__name__}; expected an object with 'kind'")
    if "kind" not in values and "model" in values:
        return from_library_json(values)
    kind = values.get("kind")
    if kind is None:
        raise FathomError("it holds no tokenizer; expected an object with 'kind', or a tokenizer.json of the library")
    if not isinstance(kind, str) or kind not in KINDS:
        raise FathomError(f"tokenizer kind is {kind!r}; supported are {', '.join(KINDS)}{near(str(kind), KINDS)}")
    return KINDS[kind](values)


def _characters_from(values: Mapping[str, Any]) -> Tokenizer:
    characters = values.get("characters")
    if not isinstance(characters, str):
        raise FathomError(f"'characters' is {type(characters).__name__}; expected text")
    return CharacterTokenizer(characters)


def _bpe_from(kind: type[BPETokenizer], values: Mapping[str, Any]) -> Tokenizer:
    special = Special.from_json(values)
    return kind(parse(values.get("tokenizer")), special)


KINDS: dict[str, Callable[[Mapping[str, Any]], Tokenizer]] = {
    CharacterTokenizer.kind: _characters_from,
    ByteTokenizer.kind: lambda values: ByteTokenizer(),
    BPETokenizer.kind: partial(_bpe_from, BPETokenizer),
    ByteFallbackTokenizer.kind: partial(_bpe_from, ByteFallbackTokenizer),
    LibraryTokenizer.kind: partial(_bpe_from, LibraryTokenizer),
    SentencePieceTokenizer.kind: sentencepiece.from_json,
}


def from_library_json(values: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a `tokenizer.json` describes. Its bos is what the library puts before a text."""
    model = values.get("model")
    if isinstance(model, Mapping) and model.get("type") == "WordLevel":
        return _characters_from_words(model)
    hf = parse(values)
    names = {token.content: id for id, token in hf.get_added_tokens_decoder().items() if token.special}
    known = names or hf.get_vocab(with_added_tokens=False)  # Gemma's </s> is HTML, and no special token
    eos = next((hf.token_to_id(name) for name in END_TOKENS if name in known), None)
    names |= {name: eos for name in END_TOKENS if eos is not None and hf.token_to_id(name) == eos}
    prefix = _prefix(hf)
    special = Special(prefix[0] if prefix else None, eos, names=names, prefix=prefix, flags=flags_of(hf))
    return kind_of(hf)(hf, special)


def kind_of(hf: tokenizers.Tokenizer) -> type[BPETokenizer]:
    """The class that knows this pipeline best."""
    if is_byte_level(hf):
        return BPETokenizer
    return ByteFallbackTokenizer if is_llama(hf) else LibraryTokenizer


def flags_of(hf: tokenizers.Tokenizer) -> dict[str, list[str]]:
    """The flags of special tokens, as `Special.flags` has them."""
    added = [token for token in hf.get_added_tokens_decoder().values() if token.special]
    flags = {token.content: [flag for flag in FLAGS if getattr(token, flag)] for token in added}
    return {name: found for name, found in flags.items() if found}


def _prefix(hf: tokenizers.Tokenizer) -> tuple[int, ...]:
    """The ids that the library puts before every text."""
    with library_errors():
        bare, whole = hf.encode("a", add_special_tokens=False).ids, hf.encode("a").ids
    return tuple(whole[: next((at for at in range(len(whole)) if whole[at : at + len(bare)] == bare), 0)])


def _characters_from_words(model: Mapping[str, Any]) -> CharacterTokenizer:
    """Words of one character each, as `to_library_json` writes a vocabulary of characters."""
    ids = model.get("vocab")
    if not isinstance(ids, Mapping) or [*ids.values()] != [*range(len(ids))] or any(len(word) != 1 for word in ids):
        raise FathomError("a WordLevel tokenizer; expected a BPE, or a word for each character")
    return CharacterTokenizer("".join(ids))


def to_library_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The values of a `tokenizer.json`. FathomError where the library cannot express this tokenizer."""
    values = TO_LIBRARY[tokenizer.kind](tokenizer)
    present = {token["content"] for token in values["added_tokens"]}
    missing = {name: id for name, id in tokenizer.special.names.items() if name not in present}
    added = [*values["added_tokens"], *build_json({}, missing, None)["added_tokens"]]
    added = [token | dict.fromkeys(tokenizer.special.flags.get(token["content"], ()), True) for token in added]
    added.sort(key=lambda token: token["id"])
    return values | {"added_tokens": added, "post_processor": _post_processor(tokenizer)}


def _post_processor(tokenizer: Tokenizer) -> dict[str, Any] | None:
    """The step that puts the prefix before a text, or before each of a pair."""
    names = {special_name(tokenizer, id): id for id in tokenizer.prefix}
    if not names:
        return None
    first, second = (
        [*({"SpecialToken": {"id": name, "type_id": at}} for name in names), {"Sequence": {"id": text, "type_id": at}}]
        for at, text in enumerate("AB")
    )
    special = {name: {"id": name, "ids": [id], "tokens": [name]} for name, id in names.items()}
    return {"type": "TemplateProcessing", "single": first, "pair": [*first, *second], "special_tokens": special}


def special_name(tokenizer: Tokenizer, id: int) -> str:
    """The text of a special token."""
    for name, other in tokenizer.special.names.items():
        if other == id:
            return name
    if isinstance(tokenizer, BPETokenizer) and (text := tokenizer.hf.id_to_token(id)) is not None:
        return str(text)  # one that a text may become
    raise FathomError(f"special token {id} has no name; expected one to write it by")


def _characters_to_library(tokenizer: CharacterTokenizer) -> dict[str, Any]:
    """A word for each; any other character is an error of the library too: it has no unknown word here."""
    model = {"type": "WordLevel", "vocab": {c: id for id, c in enumerate(tokenizer.characters)}, "unk_token": "<unk>"}
    return build_json(model, {}, split_by(r"[\s\S]")[0], decoder={"type": "Fuse"})


def _bytes_to_library(tokenizer: Tokenizer) -> dict[str, Any]:
    return build_json({"type": "BPE", "vocab": byte_letters(), "merges": []}, {}, split_by()[0])


def _pieces_to_library(tokenizer: SentencePieceTokenizer) -> dict[str, Any]:
    """A BPE whose merges follow from the scores."""
    pieces = tokenizer.pieces
    rows = list(enumerate(zip(pieces.texts, pieces.types)))
    if pieces.squeeze_spaces or any(type == UNUSED and text != filler(id) for id, (text, type) in rows):
        raise FathomError(
            "SentencePiece that squeezes runs of spaces, or has unused pieces; a tokenizer.json cannot express either"
        )
    ranks = {text: -score for text, score, type in zip(pieces.texts, pieces.scores, pieces.types) if type == NORMAL}
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
    normalizer = {"type": "Sequence", "normalizers": [PREPEND, REPLACE]} if pieces.dummy_prefix else REPLACE
    steps = [TO_SPACES, {"type": "ByteFallback"}, {"type": "Fuse"}, *[STRIP_FIRST_SPACE] * pieces.dummy_prefix]
    special = {**tokenizer.special.names, unknown: pieces.texts.index(unknown)}
    others = {text: id for id, (text, type) in rows if type == USER_DEFINED}
    return build_json(model, special, None, normalizer, {"type": "Sequence", "decoders": steps}, others)


def _refuse_ties(ranks: Mapping[str, float]) -> None:
    """FathomError where SentencePiece would join the leftmost of two different pairs: merges have an order instead."""
    first: dict[float, str] = {}
    for text, rank in ranks.items():
        if len(text) > 1 and len(set(first.setdefault(rank, text)) | set(text)) > 1 and first[rank] != text:
            raise FathomError(
                f"pieces {first[rank][:40]!r} and {text[:40]!r} have the same score; a tokenizer.json needs an order"
            )


TO_LIBRARY: dict[str, Callable[[Any], dict[str, Any]]] = {
    ByteTokenizer.kind: _bytes_to_library,
    CharacterTokenizer.kind: _characters_to_library,
    BPETokenizer.kind: lambda tokenizer: tokenizer.to_json()["tokenizer"],
    ByteFallbackTokenizer.kind: lambda tokenizer: tokenizer.to_json()["tokenizer"],
    LibraryTokenizer.kind: lambda tokenizer: tokenizer.to_json()["tokenizer"],
    SentencePieceTokenizer.kind: _pieces_to_library,
}
