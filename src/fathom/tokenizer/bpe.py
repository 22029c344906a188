"""Byte pair encoding (Sennrich et al. 2016) by the `tokenizers` library: over bytes as GPT-2, or over characters.

A pattern splits a text into words; in each word, pairs of tokens are merged in the order in which they were learned
(Radford et al. 2019). Here is what the library lacks: exact bytes, where a text can be cut, and that text never becomes
a special token.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from fathom.errors import FathomError
from fathom.tokenizer.hf_library import library_errors, steps_of
from fathom.tokenizer.known_words import ASCII_WORDS, KnownWords, pieces_before
from fathom.tokenizer.pieces import BYTE_PIECES, SPACE
from fathom.tokenizer.protocol import (
    CHUNK,
    Special,
    TokenArray,
    Tokenizer,
    check_ids,
    id_array,
    safe_chunks,
    slices,
    utf8,
)
from fathom.tokenizer.words import words_begin_at_spaces
from fathom.words import article

END_OF_TEXT = "<|endoftext|>"
MIN_VOCABULARY = 256 + 1  # every byte, and END_OF_TEXT
NEW_WORDS = 4_000_000  # characters of distinct words from which merges are learned: each costs about 150 bytes
WORD_ENDS = re.compile(r"(?<=\S)[ \t\n\r]")  # GPT-2: spaces belong to the word after them, so a cut is safe before
WORD_ENDS_AT_SPACE = re.compile(r"(?<=\S) ")  # others: punctuation may take the line ends after it along
CHARACTERWISE = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase"}  # normalizers that a cut before a space does not disturb
NOWHERE = re.compile(r"(?!)")
PIECES = {WORD_ENDS: pieces_before(r" \t\n\r"), WORD_ENDS_AT_SPACE: pieces_before(" ")}
NO_SPECIAL = Special()


class BPETokenizer(Tokenizer):
    """A byte-level BPE."""

    kind = "bpe"

    def __init__(self, hf: tokenizers.Tokenizer, special: Special = NO_SPECIAL) -> None:
        self._bytes = self._byte_table(hf)
        self.vocab_size = len(self._bytes)
        hf.encode_special_tokens = True  # text that spells a special token stays text
        hf.no_truncation()
        hf.no_padding()
        self.hf, self.special = hf, special.check(self.vocab_size)
        self._word_ends = self._word_end_pattern(hf)
        self._known = self._known_words(hf)
        self._refuse_special()

    def _refuse_special(self) -> None:
        """FathomError where a text that spells a special token becomes it."""
        _refuse_special_from_text(self.hf, self.special)

    def _byte_table(self, hf: tokenizers.Tokenizer) -> list[bytes]:
        """The bytes of every token, by id; an id without a token has none. FathomError: not a byte-level BPE."""
        letters = byte_letters()
        codes = {ord(letter): byte for letter, byte in letters.items()}
        added = hf.get_added_tokens_decoder().keys()

        def spelled(token: str, id: int) -> bytes:
            if id in added:
                return token.encode("utf-8")
            if not letters.keys() >= set(token):
                raise FathomError(f"token {id} is {token[:40]!r}; expected byte-level BPE, whose tokens spell bytes")
            return token.translate(codes).encode("latin-1")

        if not is_byte_level(hf):
            raise FathomError(f"{article(type(hf.model).__name__)} tokenizer; expected a byte-level BPE as GPT-2's")
        return token_table(hf, spelled)

    def _word_end_pattern(self, hf: tokenizers.Tokenizer) -> re.Pattern[str]:
        """Matches where a word ends whatever follows; nowhere if the pattern of words is not a known one."""
        others = [token for token in hf.get_added_tokens_decoder().values() if not token.special]
        if any(token.lstrip or token.rstrip or re.search(r"\s", token.content) for token in others):
            return NOWHERE  # text is split around them first
        if not {step["type"] for step in steps_of(hf, "normalizer")} <= CHARACTERWISE:
            return NOWHERE
        match steps_of(hf, "pre_tokenizer"):
            case [*digits, {"type": "ByteLevel", "use_regex": True, "add_prefix_space": False}] if all(
                step["type"] == "Digits" for step in digits
            ):
                return WORD_ENDS
            case steps if words_begin_at_spaces(steps):
                return WORD_ENDS_AT_SPACE
        return NOWHERE

    def _known_words(self, hf: tokenizers.Tokenizer) -> KnownWords | None:
        """What remembers the ids of words; None where it is not known where words end."""
        if self._word_ends not in PIECES:
            return None
        in_ascii = ASCII_WORDS if splits_as_gpt2(hf) else None
        return KnownWords(self._ids_of_each, self.vocab_size, PIECES[self._word_ends], in_ascii)

    @classmethod
    def train(cls, chunks: Iterable[str], vocab_size: int) -> "BPETokenizer":
        """Learn merges until there are `vocab_size` tokens, or until no pair of tokens occurs twice."""
        if vocab_size < MIN_VOCABULARY:
            raise FathomError(
                f"a BPE vocabulary of {vocab_size}; expected at least {MIN_VOCABULARY}: 256 bytes and {END_OF_TEXT}"
            )
        hf = tokenizers.Tokenizer(models.BPE())
        hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        hf.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        parts = (part for chunk in until_familiar(chunks, NEW_WORDS) for part in slices(chunk, CHUNK))
        texts = safe_chunks(parts, lambda text: last_match(WORD_ENDS, text))
        hf.train_from_iterator((text for text in texts if utf8(text)), trainer)  # it holds 256 of them at a time
        end = hf.get_vocab()[END_OF_TEXT]
        return cls(hf, Special(eos=end, names={END_OF_TEXT: end}))

    def encode_array(self, text: str) -> TokenArray:
        utf8(text)
        chunks = [text]
        if len(text) > CHUNK:
            chunks = list(safe_chunks(slices(text, CHUNK), lambda start: last_match(self._word_ends, start)))
        with library_errors():
            if self._known is not None:
                found = [*map(self._known.encode, chunks)]
                return found[0] if len(found) == 1 else np.concatenate(found)
            return id_array(self._encode_chunks(chunks), self.vocab_size)

    def _encode_chunks(self, chunks: list[str]) -> Iterator[list[int]]:
        """The ids of each chunk of a text."""
        return self._ids_of_each(chunks)

    def _ids_of_each(self, texts: list[str]) -> Iterator[list[int]]:
        """The ids of each of several texts, encoded in parallel."""
        return (encoding.ids for encoding in self.hf.encode_batch_fast(texts, add_special_tokens=False))

    @property
    def added_ids(self) -> frozenset[int]:
        return super().added_ids | frozenset(self.hf.get_added_tokens_decoder())

    def cut(self, text: str) -> int:
        return last_match(self._word_ends, text)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return b"".join([self._bytes[i] for i in check_ids(ids, self.vocab_size)])

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.special.to_json(), "tokenizer": json.loads(self.hf.to_str())}


# LLaMA 2's vocabulary as a `tokenizer.json`: SentencePiece's rule, expressed as merges. Spaces are written as ▁.
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
SPACE_INSIDE = re.compile(rf"[^{SPACE}]{SPACE}")  # a token that could reach from one word into the next
WORD_ENDS_BEFORE_SPACE = re.compile(rf"(?<=[^ {SPACE}]) ")
PREPEND = {"type": "Prepend", "prepend": SPACE}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
TO_SPACES = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}


class ByteFallbackTokenizer(BPETokenizer):
    """A BPE over characters; one without a token of its own becomes tokens <0xNN>. A space goes before the text."""

    kind = "byte_fallback"

    def __init__(self, hf: tokenizers.Tokenizer, special: Special = NO_SPECIAL) -> None:
        super().__init__(hf, special)
        self._prepends_space = PREPEND in steps_of(hf, "normalizer")
        self._only_first = any(step.get("prepend_scheme") == "first" for step in steps_of(hf, "pre_tokenizer"))
        self._drops_space = any(map(drops_first_space, steps_of(hf, "decoder")))
        self._later = _without_prefix(hf)  # for what follows the first chunk: no space goes before it

    def _byte_table(self, hf: tokenizers.Tokenizer) -> list[bytes]:
        if not is_llama(hf):
            raise FathomError(
                f"{article(type(hf.model).__name__)} tokenizer; expected a BPE with byte fallback as LLaMA 2's"
            )

        def spelled(token: str, _: int) -> bytes:
            byte = BYTE_TOKEN.fullmatch(token)
            return bytes([int(byte[1], 16)]) if byte else token.replace(SPACE, " ").encode("utf-8")

        return token_table(hf, spelled)

    def _word_end_pattern(self, hf: tokenizers.Tokenizer) -> re.Pattern[str]:
        added = hf.get_added_tokens_decoder().values()
        across = any(map(SPACE_INSIDE.search, hf.get_vocab(with_added_tokens=False)))
        return NOWHERE if across or not all(token.special for token in added) else WORD_ENDS_BEFORE_SPACE

    def _encode_chunks(self, chunks: list[str]) -> Iterator[list[int]]:
        first = self.hf.encode_batch_fast(chunks[:1], add_special_tokens=False)
        later = self._later.encode_batch_fast(chunks[1:], add_special_tokens=False)
        return (encoding.ids for encoding in [*first, *later])

    def continued(self, text: str) -> list[int]:
        if not self._only_first:
            return self.encode(text)
        utf8(text)
        with library_errors():
            return self._later.encode(text, add_special_tokens=False).ids

    def cut(self, text: str) -> int:
        """Nowhere where a second space would go before the second part."""
        return 0 if self._prepends_space else super().cut(text)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        text = super().decode_bytes(ids)
        return text[1:] if self._drops_space and text.startswith(b" ") else text


def _without_prefix(hf: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The same tokenizer, but that no space goes before a text."""
    bare = tokenizers.Tokenizer(hf.model)
    bare.normalizer = normalizers.Replace(" ", SPACE)
    if any(step.get("split") for step in steps_of(hf, "pre_tokenizer")):
        bare.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "never", True)
    bare.add_tokens([token for _, token in sorted(hf.get_added_tokens_decoder().items())])
    bare.encode_special_tokens = True
    return bare


def is_llama(hf: tokenizers.Tokenizer) -> bool:
    """Whether spaces and bytes are handled as in LLaMA 2."""
    if not isinstance(hf.model, models.BPE) or not hf.model.byte_fallback or hf.model.continuing_subword_prefix:
        return False
    if hf.model.end_of_word_suffix or any(hf.token_to_id(piece) is None for piece in BYTE_PIECES):
        return False
    if (
        not joins_tokens(hf)
        or {"type": "ByteFallback"} not in (steps := steps_of(hf, "decoder"))
        or TO_SPACES not in steps
    ):
        return False
    match steps_of(hf, "normalizer"), steps_of(hf, "pre_tokenizer"):
        case ([one, two], []) if (one, two) == (PREPEND, REPLACE):
            return True
        case ([one], [] | [{"type": "Split", "pattern": {"String": " "}}]) if one == REPLACE:
            return True  # Gemma splits at spaces, of which none is left
        case ([], [{"type": "Metaspace", "replacement": space}]) if space == SPACE:
            return True
    return False


def joins_tokens(hf: tokenizers.Tokenizer) -> bool:
    """Whether the decoder joins the texts of the tokens, with spaces for ▁, and at most removes the first space."""
    decoder = steps_of(hf, "decoder")
    joined = decoder[:-1] if decoder and drops_first_space(decoder[-1]) else decoder
    fused = len(joined) == len(decoder) or {"type": "Fuse"} in joined  # else a space of each token would go
    bare = [step for step in joined if step not in ({"type": "ByteFallback"}, {"type": "Fuse"})]
    return bool(joined) and fused and bare == [TO_SPACES] * len(bare)


def drops_first_space(step: Mapping[str, object]) -> bool:
    """Whether this step of a decoder removes the space that goes before every text."""
    return step == {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def is_byte_level(hf: tokenizers.Tokenizer) -> bool:
    """Whether each token spells bytes by GPT-2's letters, as text is written before it is merged."""
    words, decoder = ([step["type"] for step in steps_of(hf, part)] for part in ("pre_tokenizer", "decoder"))
    plain = isinstance(hf.model, models.BPE) and not hf.model.continuing_subword_prefix
    return plain and not hf.model.end_of_word_suffix and decoder == ["ByteLevel"] and "ByteLevel" in words


def splits_as_gpt2(hf: tokenizers.Tokenizer) -> bool:
    """Whether text is split by GPT-2's pattern and by nothing else."""
    match steps_of(hf, "pre_tokenizer"):
        case [{"type": "ByteLevel", "use_regex": True, "add_prefix_space": False}]:
            added = hf.get_added_tokens_decoder().values()
            return not steps_of(hf, "normalizer") and all(token.special for token in added)
    return False


def until_familiar(chunks: Iterable[str], budget: int) -> Iterator[str]:
    """The chunks until their distinct words hold `budget` characters: after that more text changes few merges."""
    words: set[str] = set()
    for chunk in chunks:
        yield chunk
        new = set(chunk.split()) - words
        words |= new
        budget -= sum(map(len, new))
        if budget <= 0:
            return


def last_match(pattern: re.Pattern[str], text: str, look_back: int = 1 << 10) -> int:
    """Where the last match of `pattern` starts; 0: nowhere. Searches ever longer ends of the text."""
    while True:
        start = max(0, len(text) - look_back)
        starts = [match.start() for match in pattern.finditer(text, start)]
        if starts or not start:
            return starts[-1] if starts else 0
        look_back *= 8


def byte_letters() -> dict[str, int]:
    """The byte of each letter by which GPT-2 writes it: itself where it is printable, else the next from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


def token_table(hf: tokenizers.Tokenizer, spelled: Callable[[str, int], bytes]) -> list[bytes]:
    """The bytes of every token, by id. FathomError: ids with gaps (the library would fill them), or an id twice."""
    vocabulary = hf.get_vocab(with_added_tokens=True)
    ids = vocabulary.values()
    size = max(ids, default=-1) + 1
    if not ids or size > 2 * len(ids):
        raise FathomError(f"token ids run up to {size - 1} with {len(ids)} tokens; expected ids without gaps")
    if len(set(ids)) < len(ids):
        raise FathomError(f"{len(ids)} tokens share {len(set(ids))} ids; expected one each")
    table = [b""] * size
    added = {id: hf.id_to_token(id) for id in hf.get_added_tokens_decoder()}  # as decoded: normalised where it is
    for token, id in vocabulary.items():
        table[id] = spelled(added.get(id) or token, id)
    return table


def _refuse_special_from_text(hf: tokenizers.Tokenizer, special: Special) -> None:
    """FathomError where a text that spells a special token becomes it, but for that of unknown characters."""
    unknown = getattr(hf.model, "unk_token", None)
    added = {token.content: id for id, token in hf.get_added_tokens_decoder().items() if token.special}
    with library_errors():
        for name, id in {**added, **special.names}.items():
            if name != unknown and id in hf.encode(name, add_special_tokens=False).ids:
                raise FathomError(f"special token {name[:40]!r} is also what its text becomes; expected one or other")
