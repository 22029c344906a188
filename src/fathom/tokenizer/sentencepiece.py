"""SentencePiece's byte pair encoding, as in LLaMA 1 and 2 (Kudo and Richardson 2018): spaces are letters, written ▁.

A space goes before a text, then the best-scored pair of neighbours is joined until none is a piece; characters that no
piece spells become bytes. The `sentencepiece` library joins, given only a checked vocabulary. Here is what it lacks:
exact bytes, where a text can be cut, and that text never becomes a special token.
"""

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from functools import cached_property
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import sentencepiece

from fathom.errors import FathomError
from fathom.files import read_bytes
from fathom.tokenizer.bpe import PREPEND, REPLACE, ByteFallbackTokenizer
from fathom.tokenizer.bpe_files import merges_of
from fathom.tokenizer.hf_library import steps_of
from fathom.tokenizer.pieces import (
    BYTE,
    BYTE_PIECES,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Pieces,
    filler,
    read_fields,
    read_pieces,
    write_pieces,
)
from fathom.tokenizer.protocol import CHUNK, Special, TokenArray, Tokenizer, check_ids, check_surplus, id_array, utf8

UNKNOWN_TEXT = " ⁇ ".encode()  # what the library writes for the unknown piece


class SentencePieceTokenizer(Tokenizer):
    """The tokenizer of a vocabulary of pieces."""

    kind = "sentencepiece"

    def __init__(self, pieces: Pieces, special: Special) -> None:
        self.pieces = pieces.check()
        self.vocab_size = len(pieces.texts)
        self.special = special.check(self.vocab_size)
        self._bytes = [_bytes_of(text, type) for text, type in zip(pieces.texts, pieces.types)]
        self._strips = pieces.dummy_prefix or pieces.squeeze_spaces
        self._library = _library(pieces)
        longest = sorted(pieces.defined, key=len, reverse=True) if pieces.apart else []
        self._defined_ids = pieces.defined
        self._defined = re.compile(f"({'|'.join(map(re.escape, longest))})") if longest else None

    def encode_array(self, text: str) -> TokenArray:
        utf8(text)
        if self.pieces.squeeze_spaces:
            text = re.sub(" +", " ", text.lstrip(" ")).rstrip(f" {SPACE}")
        parts = self._defined.split(text) if self._defined else [text]
        return id_array((ids for place, part in enumerate(parts) for ids in self._encode(part, place)), self.vocab_size)

    def _encode(self, part: str, place: int) -> Iterator[list[int]]:
        """The ids of each chunk of a part of a text; every other part is a piece that the user defined.

        A space goes before each of the others, as in llama.cpp and in transformers; SentencePiece itself has one part.
        """
        if place % 2:
            yield [self._defined_ids[part]]
        elif part:
            spaced = " " + part if self.pieces.dummy_prefix else part
            yield from map(self._library.encode, self._chunks(spaced.replace(" ", SPACE)))

    def _chunks(self, text: str) -> Iterator[str]:
        """The text in chunks that no piece joins: each cut is between two characters that are neighbours in no piece.

        The library is four times as slow on millions of characters at once.
        """
        start = 0
        while len(text) - start > CHUNK and self._neighbours is not None:
            nearest = chain(range(start + CHUNK, start, -1), range(start + CHUNK + 1, len(text)))
            end = next((at for at in nearest if text[at - 1 : at + 1] not in self._neighbours), len(text))
            yield text[start:end]
            start = end
        yield text[start:]

    @cached_property
    def _neighbours(self) -> frozenset[str] | None:
        """Every two characters that are neighbours in a piece; None: how a chunk is encoded depends on the rest.

        It does with unused pieces: the library splits them as they were last joined, wherever in the text. Nothing
        joins those that only fill ids.
        """
        unused = [
            (id, text) for id, (text, type) in enumerate(zip(self.pieces.texts, self.pieces.types)) if type == UNUSED
        ]
        if any(len(text) > 1 and text != filler(id) for id, text in unused):
            return None
        whole = (NORMAL, USER_DEFINED)
        joined = [text for text, type in zip(self.pieces.texts, self.pieces.types) if type in whole]
        return frozenset(text[at : at + 2] for text in joined for at in range(len(text) - 1))

    @property
    def added_ids(self) -> frozenset[int]:
        return super().added_ids | frozenset(self.pieces.defined.values())

    def cut(self, text: str) -> int:
        """Nowhere where a space goes before a text: another would go before the second part."""
        if self._strips or self._neighbours is None:
            return 0
        text = text.replace(" ", SPACE)
        return next((at for at in range(len(text) - 1, 0, -1) if text[at - 1 : at + 1] not in self._neighbours), 0)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The exact bytes, without the space before a first word; a control piece has none, as in the library."""
        ids = check_ids(ids, self.vocab_size)
        parts = [self._bytes[id] for id in ids]
        first = next((place for place, part in enumerate(parts) if part), None)
        if self._strips and first is not None and self.pieces.texts[ids[first]].startswith(SPACE):
            parts[first] = parts[first].removeprefix(b" ")
        return b"".join(parts)

    def to_json(self) -> dict[str, Any]:
        pieces = self.pieces
        lists = {"pieces": list(pieces.texts), "scores": list(pieces.scores), "types": list(pieces.types)}
        spaces = {"dummy_prefix": pieces.dummy_prefix, "squeeze_spaces": pieces.squeeze_spaces, "apart": pieces.apart}
        return {"kind": self.kind, **self.special.to_json(), **spaces, **lists}


def _bytes_of(text: str, type: int) -> bytes:
    """What a piece adds to a text."""
    if type in (CONTROL, UNKNOWN):
        return b"" if type == CONTROL else UNKNOWN_TEXT
    return bytes([int(text[1:-1], 16)]) if type == BYTE else text.replace(SPACE, " ").encode("utf-8")


def _library(pieces: Pieces) -> sentencepiece.SentencePieceProcessor:
    """The library's tokenizer of the same pieces; text never becomes a special one, no space is added or removed.

    Of user-defined pieces that are split off before it sees the text it must make none: a single character is one.
    """
    types = tuple(
        type if type != USER_DEFINED or not pieces.apart else CONTROL if len(text) > 1 else NORMAL
        for text, type in zip(pieces.texts, pieces.types)
    )
    bare = replace(pieces, types=types, dummy_prefix=False, squeeze_spaces=False)
    library = sentencepiece.SentencePieceProcessor()
    try:
        library.LoadFromSerializedProto(write_pieces(bare, Special()))
    except (RuntimeError, OSError) as problem:
        raise FathomError(f"not a vocabulary of the sentencepiece library ({problem})") from None
    return library


def is_sentencepiece(head: bytes) -> bool:
    """Whether a file that begins so begins as a SentencePiece model does: with a message that holds a piece's text."""
    try:
        first, message, at = next(read_fields(head))
        field, text, _ = next(read_fields(message, at)) if first == 1 and isinstance(message, bytes) else (0, b"", 0)
        return field == 1 and isinstance(text, bytes) and bool(text.decode("utf-8"))
    except (FathomError, StopIteration, UnicodeDecodeError):
        return False


def read_sentencepiece(path: Path, vocab_size: int) -> SentencePieceTokenizer:
    """The tokenizer in a SentencePiece model file, for a model of `vocab_size` ids."""
    data = read_vocabulary(path, vocab_size)
    try:
        tokenizer = SentencePieceTokenizer(*read_pieces(data, vocab_size))
        check_surplus(tokenizer, vocab_size)
        return tokenizer
    except FathomError as problem:
        raise FathomError(f"{path}: {problem}") from None


def read_vocabulary(path: Path, vocab_size: int) -> bytes:
    """The bytes of a file that may only be as large as a vocabulary of `vocab_size` tokens can be."""
    return read_bytes(path, (1 << 20) + 64 * vocab_size, f"a tokenizer of {vocab_size} tokens")


def to_sentencepiece(tokenizer: SentencePieceTokenizer) -> bytes:
    """The bytes of a SentencePiece model file, which cannot hold a chat template. FathomError: it would be another."""
    refuse_parts(tokenizer.pieces, apart=False)
    return write_pieces(tokenizer.pieces, tokenizer.special)


def refuse_parts(pieces: Pieces, apart: bool) -> None:
    """FathomError where user-defined pieces mean something else to who splits them off first, or does not (`apart`)."""
    if pieces.apart == apart or not pieces.defined:
        return
    spaced = next((text for text in pieces.defined if SPACE in text and pieces.apart), None)
    if pieces.dummy_prefix or pieces.squeeze_spaces or spaced is not None:
        text = spaced or min(pieces.defined)
        raise FathomError(f"spaces around the added token {text[:40]!r} are handled in a way that this format has not")


def from_json(values: Mapping[str, Any]) -> SentencePieceTokenizer:
    """The tokenizer whose `to_json` these values are."""
    lists = [_list(values, key, kinds) for key, kinds in (("pieces", str), ("scores", (int, float)), ("types", int))]
    prefix, squeeze, apart = (values.get(key) for key in ("dummy_prefix", "squeeze_spaces", "apart"))
    apart = True if apart is None else apart  # older runs
    if not isinstance(prefix, bool) or not isinstance(squeeze, bool) or not isinstance(apart, bool):
        raise FathomError("'dummy_prefix', 'squeeze_spaces' or 'apart' is damaged; expected true or false")
    texts, scores, types = map(tuple, lists)
    return SentencePieceTokenizer(Pieces(texts, scores, types, prefix, squeeze, apart), Special.from_json(values))


def _list(values: Mapping[str, Any], key: str, kinds: type | tuple[type, ...]) -> list[Any]:
    items = values.get(key)
    if not isinstance(items, list) or not all(isinstance(item, kinds) for item in items):
        raise FathomError(f"{key!r} is damaged; expected a list of {'text' if kinds is str else 'numbers'}")
    return items


def as_sentencepiece(tokenizer: Tokenizer) -> Tokenizer:
    """A BPE with byte fallback as SentencePiece, any other tokenizer as it is. FathomError: there is no equivalent.

    Merges join the pair that comes first in their list, SentencePiece the one whose piece has the best score. The two
    agree where the merges into each token are consecutive and include the pair from which SentencePiece joins it.
    """
    if not isinstance(tokenizer, ByteFallbackTokenizer):
        return tokenizer
    prefix = _dummy_prefix(tokenizer)
    model = tokenizer.to_json()["tokenizer"]["model"]
    texts = [filler(id) for id in range(tokenizer.vocab_size)]  # where ids have gaps, these stay
    for text, id in tokenizer.hf.get_vocab(with_added_tokens=True).items():
        texts[id] = text
    types = _types(tokenizer, texts, model["unk_token"])
    apart = {text for text, type in zip(texts, types) if type == USER_DEFINED}
    ranked = _ranked(model, [text for text, type in zip(texts, types) if type == NORMAL], apart)
    scores = {text: -float(place) for place, text in enumerate(ranked)}
    pieces = Pieces(tuple(texts), tuple(scores.get(text, 0.0) for text in texts), tuple(types), prefix, apart=True)
    return SentencePieceTokenizer(pieces, tokenizer.special)


def _dummy_prefix(tokenizer: ByteFallbackTokenizer) -> bool:
    """Whether a space goes before every text. A Metaspace adds none before a space, which SentencePiece cannot do."""
    match steps_of(tokenizer.hf, "normalizer"), steps_of(tokenizer.hf, "pre_tokenizer"):
        case [one, two], [] if (one, two) == (PREPEND, REPLACE):
            return True
        case ([one], [] | [{"type": "Split"}]) if one == REPLACE:
            return False
        case [], [{"type": "Metaspace", "prepend_scheme": "never", "split": False}]:
            return False
    raise FathomError("SentencePiece cannot express how spaces are handled; use the tokenizer.model it was made from")


def _types(tokenizer: ByteFallbackTokenizer, texts: list[str], unknown: str | None) -> list[int]:
    """The type of each token. Gemma's added runs of spaces, ▁▁, are what its merges make of them: normal pieces."""
    added = {token.content: token.special for token in tokenizer.hf.get_added_tokens_decoder().values()}
    types = {
        text: CONTROL if special else NORMAL if set(text) == {SPACE} else USER_DEFINED
        for text, special in added.items()
    }
    types |= {**dict.fromkeys(tokenizer.special.names, CONTROL), **dict.fromkeys(BYTE_PIECES, BYTE)}
    fillers = {filler(id): UNUSED for id, text in enumerate(texts) if text == filler(id)}
    types = fillers | types
    return [UNKNOWN if text == unknown else types.get(text, NORMAL) for text in texts]


def _ranked(model: dict[str, Any], normal: list[str], apart: Set[str]) -> list[str]:
    """The tokens that text may become, the one that is joined first before all others; of those `apart` nothing is."""
    merges = [tuple(merge.split(" ", 1) if isinstance(merge, str) else merge) for merge in model["merges"]]
    merges = [merge for merge in merges if apart.isdisjoint({*merge, "".join(merge)})]
    results = [token for _, block in groupby(merges, _run_letter) for token in _results(list(block))]
    known = set(results)
    # where ids follow the merges single letters, which nothing joins, keep their places: so SentencePiece scores them
    by_id = sorted(results, key=model["vocab"].__getitem__) == results
    ranked = normal if by_id else [*results, *(text for text in normal if text not in known)]
    required = merges_of({text: rank for rank, text in enumerate(ranked)})
    if len(known) < len(results) or not set(merges) >= set(required) or not known <= set(normal):
        raise FathomError("one score for each token cannot express its merges; expected LLaMA 2's kind of BPE")
    return ranked


def _run_letter(merge: tuple[str, str]) -> str:
    """The letter of which the resulting token is a run, as LLaMA 2's of spaces; empty: of several letters."""
    letters = set("".join(merge))
    return letters.pop() if len(letters) == 1 else ""


def _results(merges: list[tuple[str, str]]) -> list[str]:
    """The tokens that result from these merges, in order; one is repeated where merges into others are in between.

    Runs of one letter have the same score in LLaMA 2, and their merges are mixed. Where two letters come last and
    every run can grow by one letter, a run grows from its left: the same as when the longer run always comes first.
    """
    results = [token for token, _ in groupby(merges, "".join)]
    letter, longest = _run_letter(merges[0]), max(map(len, results))
    growing = {(letter * length, letter) for length in range(1, longest)}
    if letter and len(set(results)) < len(results) and set(merges) >= growing and merges[-1] == (letter, letter):
        return [letter * length for length in range(longest, 1, -1)]
    return results
