"""What comes out of generation: pieces while it runs, completions of them, and what was measured.

Knows neither the model nor how a token is chosen. Does not import torch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

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
