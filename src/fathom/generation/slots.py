"""One continuation that an engine writes: what was asked for, and how far it is.

A slot holds its text, its pages of the cache and everything random about it, so that nothing of it depends on the
others.
"""

import secrets
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from fathom.generation.constraint import Constraint
from fathom.generation.options import GenerateOptions
from fathom.generation.sampling import Samplers
from fathom.generation.speculative import FIRST, PromptLookup
from fathom.generation.text import Piece, Row
from fathom.tokenizer.protocol import Tokenizer


@dataclass(frozen=True)
class Request:
    """One continuation of a prompt. Of several samples of one, each is a request with an index of its own."""

    ids: tuple[int, ...]  # of the prompt, one or more
    options: GenerateOptions
    adapter: str | None = None
    constraint: Constraint | None = None
    index: int = 0  # `row` of its pieces; the random generator begins at the seed plus this
    top: int = 0  # how many of the likeliest tokens each piece names


class Token(NamedTuple):
    """A token that was chosen, ln of the model's own probability of it, and the likeliest ones with theirs."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Slot:
    """A request while it is answered. reused: how many tokens of its prompt were found in the cache."""

    def __init__(
        self, request: Request, room: int | None, tokenizer: Tokenizer, device: torch.device, vocab_size: int
    ) -> None:
        """room: how many tokens its text may have; None: any number."""
        options = request.options
        self.request, self.samplers = request, Samplers(options)
        self.row = Row(request.index, request.ids, room, tokenizer, options)
        self.seed = secrets.randbits(32) if options.seed is None else options.seed
        self.generator = torch.Generator().manual_seed(self.seed + request.index)
        self.seen = torch.zeros(vocab_size, dtype=torch.bool, device=device) if self.samplers.remembers else None
        self.counts = torch.zeros(vocab_size, device=device) if self.samplers.counted else None
        if self.seen is not None:
            self.seen[list(request.ids)] = True
        longest = len(request.ids) + options.max_new_tokens - 1  # the last new token is never read
        self.most = longest if room is None else min(longest, room)  # tokens in the cache
        self.table, self.names = list[int](), list[bytes]()  # its pages, and the digests of the full ones
        self.length = self.reused = self.named = 0  # tokens read, found, pages that can be found by others
        self.private = False  # shares no pages: it will be read again under another rotation
        self.lookup, self.draft_length, self.draft = PromptLookup(), FIRST, list[int]()

    @property
    def ids(self) -> list[int]:
        """Prompt and new tokens."""
        return self.row.window.ids

    @property
    def unread(self) -> int:
        """Tokens of its text that the model has not read."""
        return len(self.row.window.ids) - self.length

    def accept(self, token: Token) -> Piece:
        """Append the next token to the text; raises what its constraint raises."""
        if self.seen is not None:
            self.seen[token.id] = True
        if self.counts is not None:
            self.counts[token.id] += 1
        piece = replace(self.row.accept(token.id, token.logprob), top=token.top)
        if (constraint := self.request.constraint) is None or piece.finish_reason == "eos":
            return piece
        constraint.accept(token.id)
        if piece.finish_reason is None and constraint.finished:
            self.row.finish_reason = "stop"
            return replace(piece, text=piece.text + self.row.rest(), finish_reason="stop")
        return piece


Event = tuple[Slot, Piece | Exception]


@dataclass(frozen=True)
class EngineFigures:
    """What an engine does and has done."""

    rows: int  # continuations that are read or written now
    queue: int  # those that wait
    pages_used: int
    pages_free: int  # those that hold texts nobody reads included
    prompt_tokens: int  # of all prompts that were begun
    reused_tokens: int  # of those, found in the cache
    new_tokens: int
    steps: int
