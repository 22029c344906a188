"""Constrained decoding: which tokens may come next so that the text stays within a grammar.

A grammar is compiled once; before each token it gives a mask over the vocabulary, and a token outside of it is never
drawn (Willard and Louf 2023). The grammars, and the masks from bytes of tokens, are those of the library `llguidance`.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from itertools import accumulate, islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.tokenizer.protocol import Tokenizer

BETWEEN = r"(\n[ \t]{0,24}| )?"  # what may stand between the parts of JSON: a model cannot write spaces without end
LONGEST = 1 << 18  # characters of a grammar
JSON_OBJECT = {"type": "object"}
DEFINITION = re.compile(r"^[ \t]*([\w-]+)[ \t]*::=", re.MULTILINE)  # as GBNF writes one


class Constraint(Protocol):
    """What may be written next, for one text."""

    def mask(self) -> Tensor:  # (V,) bool
        """The tokens that may come next; never none."""

    def accept(self, token: int) -> None:
        """Go on after this token, which the mask allowed."""

    @property
    def finished(self) -> bool:
        """Whether the text has ended without a token that ends it; nothing may follow."""


class Vocabulary:
    """The bytes of every token, as llguidance reads them.

    Special tokens are no text: only a grammar that names one, as `<[id]>`, allows it. Byte 255 is in no UTF-8.
    """

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        """size: of the mask; ids without a token, up to the model's own number of them, are never allowed."""
        if find_spec("llguidance") is None:
            raise FathomError("constrained decoding needs llguidance: pip install 'fathom-lm[serve]'")
        from llguidance import LLTokenizer
        from llguidance._tokenizer import TokenizerWrapper

        self.tokenizer, self.size = tokenizer, size
        count = min(size, tokenizer.vocab_size)
        special = {id for id in (*tokenizer.special.names.values(), *tokenizer.special.end_ids) if id < count}
        ends = sorted(tokenizer.special.end_ids & special) or [size]  # one beyond the vocabulary: nothing ends it
        self.has_end = ends != [size]
        self.bos_token_id, self.eos_token_id = None, ends[0]
        self.special_token_ids = sorted(special | {ends[0]})
        self.tokens = spelled(tokenizer, count, special) + [b""] * (max(size, ends[0] + 1) - count)
        for id in self.special_token_ids:
            self.tokens[id] = b"\xff<|special_%d|>" % id
        self.ids = {text: id for id, text in enumerate(self.tokens) if text and id not in special}
        self.most = max(map(len, self.ids), default=0)
        self.library = LLTokenizer(TokenizerWrapper(self), eos_token=ends)

    def __call__(self, text: str | bytes) -> list[int]:
        """The ids of a text inside of another, which llguidance asks for where a grammar leaves no choice: those of the
        tokenizer where they spell it, else the longest tokens one after another."""
        wanted = text.encode() if isinstance(text, str) else text
        for before in (b"", b"\n"):  # after a line's end no space goes before a word
            with suppress(FathomError):
                ids = self.tokenizer.encode((before + wanted).decode("utf-8", "replace"))
                starts = list(accumulate((len(self.tokens[id]) for id in ids), initial=0))
                whole = b"".join(self.tokens[id] for id in ids)
                if whole.endswith(wanted) and len(whole) - len(wanted) in starts:
                    return ids[starts.index(len(whole) - len(wanted)) :]
        return self.longest(wanted)

    def longest(self, text: bytes) -> list[int]:
        """The longest tokens that spell a text from its start, as far as any do."""
        ids: list[int] = []
        while text and (sizes := [n for n in range(min(len(text), self.most), 0, -1) if text[:n] in self.ids]):
            ids.append(self.ids[text[: sizes[0]]])
            text = text[sizes[0] :]
        return ids


def spelling(tokenizer: Tokenizer) -> Callable[[int], bytes]:
    """The bytes that a token adds inside of a text, where a word keeps its space."""
    special = tokenizer.added_ids | tokenizer.special.end_ids
    words = (id for id in range(tokenizer.vocab_size) if id not in special)
    before = list(islice((id for id in words if tokenizer.decode_bytes([id]).isalpha()), 1))
    start = len(tokenizer.decode_bytes(before)) if before else 0
    return lambda id: tokenizer.decode_bytes([*before, id])[start:]


def spelled(tokenizer: Tokenizer, count: int, special: set[int]) -> list[bytes]:
    """The bytes of each token inside of a text; b"" for what is no text."""
    text = spelling(tokenizer)
    return [b"" if id in special or b"\xff" in (found := text(id)) else found for id in range(count)]


@lru_cache(maxsize=4)
def vocabulary(tokenizer: Tokenizer, size: int) -> Vocabulary:
    """The vocabulary of a tokenizer, made once: it takes a second for 128,000 tokens."""
    return Vocabulary(tokenizer, size)


class Grammar:
    """A compiled grammar. `start` gives what follows one text through it."""

    def __init__(self, words: Vocabulary, source: str) -> None:
        """source: as the functions below make it. FathomError: it cannot be compiled."""
        from llguidance import LLMatcher

        self.words = words
        self.matcher = LLMatcher(words.library, source, log_level=0)
        if self.matcher.is_error():
            raise FathomError(first_line(self.matcher.get_error()))
        self.start().mask()

    def start(self) -> "Masks":
        return Masks(self.words, self.matcher.deep_copy())


class Masks:
    """One text on its way through a grammar: a Constraint."""

    def __init__(self, words: Vocabulary, matcher: Any) -> None:
        self.words, self.matcher = words, matcher

    def mask(self) -> Tensor:  # (V,) bool
        """FathomError where llguidance has given up: the grammar is too large for it at this place."""
        bits = np.unpackbits(np.frombuffer(self.matcher.compute_bitmask(), np.uint8), bitorder="little")
        allowed = torch.from_numpy(bits[: self.words.size].astype(bool))
        if self.matcher.is_error() or not allowed.any():
            raise FathomError(
                f"the grammar allows no token here: {first_line(self.matcher.get_error()) or 'none fits'}"
            )
        return allowed

    def accept(self, token: int) -> None:
        if not self.matcher.consume_token(token):
            raise FathomError(f"token {token} is outside of the grammar; expected one that the mask allows")

    @property
    def finished(self) -> bool:
        """Whether the text is whole, where no token of the vocabulary could say so."""
        return not self.words.has_end and bool(self.matcher.is_accepting())


def of_schema(words: Vocabulary, schema: Mapping[str, Any]) -> Grammar:
    """JSON that a schema describes. FathomError: the schema cannot be compiled, and why."""
    return Grammar(words, lark_source(f"start: {json_rule(schema)}"))


def of_text(words: Vocabulary, grammar: str) -> Grammar:
    """A grammar as text: Lark's syntax with `start`, as llguidance takes it, or llama.cpp's GBNF with `root`."""
    from llguidance.gbnf_to_lark import any_to_lark

    if len(grammar) > LONGEST:
        raise FathomError(f"the grammar has {len(grammar):,} characters; expected at most {LONGEST:,}")
    try:
        source = any_to_lark(grammar) if DEFINITION.search(grammar) else grammar
    except Exception as problem:  # the library's own parser raises whatever it meets
        raise FathomError(f"the grammar is no GBNF: {first_line(str(problem))}") from None
    return Grammar(words, lark_source(source))


def of_rules(words: Vocabulary, rules: Sequence[str]) -> Grammar:
    """Rules in Lark's syntax, which `start` begins."""
    return Grammar(words, lark_source("\n".join(rules)))


def json_rule(schema: Mapping[str, Any]) -> str:
    """The right side of a rule: JSON that a schema describes."""
    given = {"x-guidance": {"whitespace_pattern": BETWEEN}}
    return f"%json {json.dumps({**schema, **given})}"


def lark_source(text: str) -> str:
    from llguidance import LLMatcher

    return str(LLMatcher.grammar_from_lark(text))


def first_line(text: str) -> str:
    """What is said first, in one line of at most 300 characters."""
    return " ".join(text.split())[:300]
