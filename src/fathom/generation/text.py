"""From tokens to text: pieces while a row is generated, whole completions, and timing statistics.

A token may be half a character and a piece of text may be half a stop string: both are held back until it is clear what
they become, so that text once shown is never retracted.
"""

import codecs
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from fathom.generation.context import Window
from fathom.generation.options import GenerateOptions
from fathom.tokenizer.protocol import Tokenizer
from fathom.words import counted


class TextDecoder:
    """Incremental decoding: the text that each token adds; bytes that are not UTF-8 become U+FFFD."""

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()) -> None:
        self.tokenizer, self.context = tokenizer, list(before)
        self.utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that `token` adds after the tokens before it, without an incomplete last character."""
        old = self.tokenizer.decode_bytes(self.context)
        new = self.tokenizer.decode_bytes([*self.context, token])[len(old) :]
        self.context = [token] if new else [*self.context, token]  # a first word's space may depend on what precedes it
        return self.utf8.decode(new)

    def flush(self) -> str:
        """The text still held back at the end."""
        return self.utf8.decode(b"", final=True)


class StopStrings:
    """Passes text through up to the first complete stop string; then `reached` is True."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops, self.held, self.reached = tuple(stops), "", False

    def push(self, text: str) -> str:
        """The new text that cannot be part of a stop string."""
        text = self.held + text
        ends = [(at + len(stop), at) for stop in self.stops if (at := text.find(stop)) >= 0]
        self.reached = self.reached or bool(ends)
        shown = min(ends)[1] if ends else len(text) - self.pending(text)  # the first complete one, then the longest
        self.held = "" if ends else text[shown:]
        return text[:shown]

    def pending(self, text: str) -> int:
        """The length of the longest suffix of `text` that is a prefix of a stop string."""
        longest = max(map(len, self.stops), default=0)
        lengths = range(min(len(text), longest), 0, -1)
        return next((n for n in lengths if any(stop.startswith(text[-n:]) for stop in self.stops)), 0)

    def flush(self) -> str:
        """The text still held back at the end: it never became a stop string."""
        held, self.held = self.held, ""
        return held


Finish = Literal["stop", "length", "eos"]


@dataclass(frozen=True)
class Piece:
    """One new token. The texts of a row's pieces, joined, are its completion; a piece may add no text yet."""

    row: int  # prompt * num_samples + sample
    token: int
    text: str
    logprob: float  # ln of the model's own probability: of its full softmax, before any sampler
    finish_reason: Finish | None = None  # set on a row's last piece
    top: tuple[tuple[int, float], ...] = ()  # the likeliest tokens, each with ln of its probability, where asked for


@dataclass(frozen=True, repr=False)
class Completion:
    """The text after one prompt, without the stop string. `tokens` are all generated tokens, eos included.

    Printed, it is its prompt and its text.
    """

    row: int
    prompt: str
    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: Finish | None  # None: interrupted

    def __str__(self) -> str:
        return self.prompt + self.text

    def __repr__(self) -> str:
        return (
            f"Completion({self.prompt!r} -> {self.text!r}, {counted(len(self.tokens), 'token')}, {self.finish_reason})"
        )


def complete(pieces: Iterable[Piece], prompts: Sequence[str]) -> list[Completion]:
    """Group pieces into one completion per row; `prompts`: the prompt of each row."""
    rows: list[list[Piece]] = [[] for _ in prompts]
    for piece in pieces:
        rows[piece.row].append(piece)
    return [
        Completion(
            row=index,
            prompt=prompt,
            text="".join(piece.text for piece in row),
            tokens=tuple(piece.token for piece in row),
            logprobs=tuple(piece.logprob for piece in row),
            finish_reason=row[-1].finish_reason if row else None,
        )
        for index, (prompt, row) in enumerate(zip(prompts, rows))
    ]


@dataclass
class Stats:
    """Timing of a stream so far. Prefill ends with each row's first token; decoding is everything after it."""

    seed: int
    prompt_tokens: int
    prefill_seconds: float | None = None  # until the first pass is done
    decode_tokens: int = 0
    decode_seconds: float = 0.0
    cache_bytes: int = 0
    dropped: int = 0  # tokens that slid out of the context, over all rows
    passes: int = 0  # of the model while decoding
    proposed: int | None = None  # draft tokens verified by the model; None: no speculation
    accepted: int = 0  # of those, accepted
    reused_tokens: int = 0  # of the prompt, that were in the cache

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens per second, of those that were read."""
        return (self.prompt_tokens - self.reused_tokens) / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_rate(self) -> float:
        """New tokens per second over all rows."""
        return self.decode_tokens / self.decode_seconds if self.decode_seconds else 0.0

    def count(self, tokens: int, seconds: float) -> None:
        """Count `tokens` new tokens, over all rows, of one pass that took `seconds`."""
        if self.prefill_seconds is None:
            self.prefill_seconds = seconds
        else:
            self.passes += 1
            self.decode_tokens += tokens
            self.decode_seconds += seconds

    def describe(self) -> str:
        """One line, such as `prompt 5 tokens, 900 tokens/s; 99 more at 210 tokens/s; cache 1.0 MiB`."""
        slid = f"; the oldest {counted(self.dropped, 'token was', 'tokens were')} dropped" if self.dropped else ""
        reused = f"{self.reused_tokens:,} of them read before, " if self.reused_tokens else ""
        return (
            f"prompt {counted(self.prompt_tokens, 'token')}, {reused}{self.prefill_rate:,.0f} tokens/s;"
            f" {self.decode_tokens:,} more at {self.decode_rate:,.0f} tokens/s;{self.describe_drafts()}"
            f" cache {self.cache_bytes / 2**20:,.1f} MiB; seed {self.seed}{slid}"
        )

    def describe_drafts(self) -> str:
        """How many draft tokens the model accepted; empty without speculation."""
        if self.proposed is None:
            return ""
        each = self.decode_tokens / self.passes if self.passes else 1.0
        return f" {self.accepted:,} of {self.proposed:,} draft tokens accepted, {each:.2f} tokens per pass;"


class Row:
    """One text being generated: its window of tokens, its decoder, and why it ended (`finish_reason`, None before).

    `left`: how many tokens may still follow.
    """

    def __init__(
        self, index: int, ids: Sequence[int], room: int | None, tokenizer: Tokenizer, options: GenerateOptions
    ) -> None:
        self.index, self.last, self.left = index, tokenizer.special.end_ids, options.max_new_tokens
        self.window = Window(ids, room, slides=options.past_context == "slide")
        self.decoder, self.stops = TextDecoder(tokenizer, ids), StopStrings(options.stop)
        self.finish_reason: Finish | None = None

    def accept(self, token: int, logprob: float) -> Piece:
        """Append the next token; returns the piece of text it adds."""
        self.left -= 1
        self.window.append(token)
        text = "" if token in self.last else self.stops.push(self.decoder.push(token))
        self.finish_reason = self.reason(token)
        if self.finish_reason in ("eos", "length"):
            text += self.rest()
        return Piece(self.index, token, text, logprob, self.finish_reason)

    def rest(self) -> str:
        """The text still held back, of a row that has ended before a stop string came."""
        return self.stops.push(self.decoder.flush()) + self.stops.flush()

    def reason(self, token: int) -> Finish | None:
        if self.stops.reached:
            return "stop"
        if token in self.last:
            return "eos"
        return "length" if self.left == 0 or self.window.full else None
