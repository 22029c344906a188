"""One continuation that an engine writes: what was asked for, and how far it is.

A slot holds its text, its pages of the cache and everything random about it, so that nothing of it depends on the
others.
"""

import secrets
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from fathom.generation.constraint import Constraint
from fathom.generation.context import most_of
from fathom.generation.options import GenerateOptions
from fathom.generation.sampling import Samplers
from fathom.generation.speculative import FIRST, Draft, PromptLookup, Proposer
from fathom.generation.text import Piece, Row
from fathom.tokenizer.protocol import Tokenizer
from fathom.words import counted


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
        self.most = most_of(len(request.ids), options, room)  # tokens that the model reads at once
        self.text = list(request.ids)  # prompt and all new tokens
        self.length = self.reused = 0  # tokens read, and of those found in the cache
        self.proposer: Proposer | None = PromptLookup() if options.speculate == "lookup" else None
        self.draft, self.draft_length = Draft(), FIRST
        self.proposed = self.accepted = 0  # draft tokens
        self.table, self.names = list[int](), list[bytes]()  # its pages, and the digests of the full ones
        self.named = self.given = 0  # pages that can be found by others, tokens when it got its pages

    @property
    def ids(self) -> list[int]:
        """Prompt and new tokens, those that have slid out of the context left out."""
        return self.row.window.ids

    @property
    def unread(self) -> int:
        """Tokens of its text that the model has not read."""
        return len(self.row.window.ids) - self.length

    def next(self, t: int) -> list[int]:
        """The next t tokens to be read: of the text, and then of the draft."""
        return [*self.ids[self.length : self.length + t], *self.draft.tokens][:t]

    def count(self, t: int) -> None:
        """Count t tokens as read. Of a draft what is accepted counts, once it is chosen."""
        self.length += t - len(self.draft.tokens)

    def describe(self) -> str:
        """What it asks for, such as `a prompt of 5 tokens and 30 new ones`."""
        new = self.request.options.max_new_tokens
        return f"a prompt of {counted(len(self.request.ids), 'token')} and {new:,} new ones"

    def accept(self, token: Token) -> Piece:
        """Append the next token to the text; raises what its constraint raises."""
        if self.seen is not None:
            self.seen[token.id] = True
        if self.counts is not None:
            self.counts[token.id] += 1
        self.text.append(token.id)
        piece = self.row.accept(token.id, token.logprob)
        piece = replace(piece, top=token.top) if token.top else piece
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
