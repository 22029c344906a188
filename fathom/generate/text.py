"""What comes out of generation: pieces while it runs, completions of them, and what was measured.

Works on tokens alone; choosing them is in `sampling`.
"""

import codecs
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from fathom.generate.context import Window
from fathom.generate.options import GenerateOptions
from fathom.tokenizer.protocol import Tokenizer

# From tokens to text that can be shown at once and never has to be taken back.
#
# A token may be half a character and a piece of text may be half a stop string: both are held back until it is clear
# what they become. Does not know models.


class TextDecoder:
    """The text of a growing row of tokens, a piece for each; bytes that are not UTF-8 become U+FFFD."""

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()) -> None:
        self.tokenizer, self.context = tokenizer, list(before)
        self.utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """What `token` adds: what it decodes to after the tokens before it, without an unfinished last character."""
        old = self.tokenizer.decode_bytes(self.context)
        new = self.tokenizer.decode_bytes([*self.context, token])[len(old) :]
        self.context = [token] if new else [*self.context, token]  # a first word's space may depend on what precedes it
        return self.utf8.decode(new)

    def flush(self) -> str:
        """What is still held back, at the end."""
        return self.utf8.decode(b"", final=True)


class StopStrings:
    """Lets text through up to the first complete stop string. `found` once that was seen."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops, self.held, self.found = tuple(stops), "", False

    def push(self, text: str) -> str:
        """What of the text so far, beyond what was let through before, cannot be part of a stop string."""
        text = self.held + text
        ends = [(at + len(stop), at) for stop in self.stops if (at := text.find(stop)) >= 0]
        self.found = self.found or bool(ends)
        shown = (
            min(ends)[1] if ends else len(text) - self.pending(text)
        )  # the first to be complete; of those, the longest
        self.held = "" if ends else text[shown:]
        return text[:shown]

    def pending(self, text: str) -> int:
        """The length of the longest end of `text` with which a stop string begins."""
        longest = max(map(len, self.stops), default=0)
        lengths = range(min(len(text), longest), 0, -1)
        return next((n for n in lengths if any(stop.startswith(text[-n:]) for stop in self.stops)), 0)

    def flush(self) -> str:
        """What is still held back, at the end: it never became a stop string."""
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


@dataclass(frozen=True)
class Completion:
    """One text: what follows the prompt, without the stop string. `tokens` are all that were chosen, eos too."""

    row: int
    prompt: str
    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: Finish | None  # None: it was interrupted


def complete(pieces: Iterable[Piece], prompts: Sequence[str]) -> list[Completion]:
    """The completion of each row from its pieces; `prompts` are those of the rows."""
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
class Facts:
    """What a stream has measured so far. Prefill ends with each row's first token; decode is all after it."""

    seed: int
    prompt_tokens: int
    prefill_seconds: float = 0.0
    decode_tokens: int = 0
    decode_seconds: float = 0.0
    cache_bytes: int = 0
    forgotten: int = 0  # tokens that slid out of view, of all rows
    passes: int = 0  # through the model, while decoding
    proposed: int | None = None  # tokens of drafts that the model judged; None: there are no drafts
    accepted: int = 0  # and that were kept

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens per second."""
        return self.prompt_tokens / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_rate(self) -> float:
        """New tokens per second, of all rows together."""
        return self.decode_tokens / self.decode_seconds if self.decode_seconds else 0.0

    def count(self, tokens: int, seconds: float) -> None:
        """So many tokens, of all rows together, chosen in one pass that took this time."""
        if self.prefill_seconds == 0:
            self.prefill_seconds = seconds
        else:
            self.passes += 1
            self.decode_tokens += tokens
            self.decode_seconds += seconds

    def describe(self) -> str:
        """One line, such as `prompt 5 tokens, 900 tokens/s; 99 more at 210 tokens/s; cache 1.0 MiB`."""
        slid = f"; the oldest {self.forgotten:,} tokens slid out of view" if self.forgotten else ""
        return (
            f"prompt {self.prompt_tokens:,} tokens, {self.prefill_rate:,.0f} tokens/s;"
            f" {self.decode_tokens:,} more at {self.decode_rate:,.0f} tokens/s;{self.describe_drafts()}"
            f" cache {self.cache_bytes / 2**20:,.1f} MiB; seed {self.seed}{slid}"
        )

    def describe_drafts(self) -> str:
        """How much of what was proposed the model agreed to; nothing where nothing proposes."""
        if self.proposed is None:
            return ""
        each = self.decode_tokens / self.passes if self.passes else 1.0
        return f" {self.accepted:,} of {self.proposed:,} drafted tokens kept, {each:.2f} tokens a pass;"


# One text being written: what is in view, what may be shown of it, and why it ends.
#
# Knows neither the model nor how a token is chosen.


class Row:
    """`accept` takes its next token; `finish_reason` is None until it has ended, `left` how many may still come."""

    def __init__(
        self, index: int, ids: Sequence[int], room: int | None, tokenizer: Tokenizer, options: GenerateOptions
    ) -> None:
        self.index, self.last, self.left = index, tokenizer.special.end_ids, options.max_new_tokens
        self.window = Window(ids, room, slides=options.past_context == "slide")
        self.decoder, self.stops = TextDecoder(tokenizer, ids), StopStrings(options.stop)
        self.finish_reason: Finish | None = None

    def accept(self, token: int, logprob: float) -> Piece:
        """What this row makes of its next token."""
        self.left -= 1
        self.window.append(token)
        text = "" if token in self.last else self.stops.push(self.decoder.push(token))
        self.finish_reason = self.reason(token)
        if self.finish_reason in ("eos", "length"):
            text += self.stops.push(self.decoder.flush()) + self.stops.flush()
        return Piece(self.index, token, text, logprob, self.finish_reason)

    def reason(self, token: int) -> Finish | None:
        if self.stops.found:
            return "stop"
        if token in self.last:
            return "eos"
        return "length" if self.left == 0 or self.window.full else None
