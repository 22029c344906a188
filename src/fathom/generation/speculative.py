"""Speculative decoding: a proposer drafts several tokens, and the model verifies them all in one pass.

A pass over k tokens costs hardly more than over one, while both are bound by reading the weights. Accepted tokens
follow the model's own distribution exactly, after all samplers (Leviathan et al. 2023, algorithm 1; Chen et al. 2023,
theorem 1). Drafts come from repeats in the text (PromptLookup) or from a smaller model (DraftModel).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from fathom.backend.one_piece import OnePiece
from fathom.errors import FathomError
from fathom.generation.options import GenerateOptions
from fathom.generation.sampling import Draw, Samplers, draw, evaluating, finite, pick, probabilities
from fathom.model.transformer import Transformer
from fathom.tokenizer.protocol import Tokenizer

MOST = 16  # draft tokens of one pass
FIRST = 4  # of the first pass


@dataclass(frozen=True)
class Draft:
    """Draft tokens, and the distribution q that each was drawn from; None: deterministic, q is one-hot."""

    tokens: list[int] = field(default_factory=list)
    q: Tensor | None = None  # (k, V)

    def verifier(self, place: int) -> Draw:
        """How the token at this place of the draft, or the one after all of it, is drawn."""
        if self.q is None or place == len(self.tokens):
            return draw
        return partial(accept_or_resample, token=self.tokens[place], q=self.q[place])


class Proposer(Protocol):
    """Where drafts come from."""

    @property
    def nbytes(self) -> int:
        """Bytes of its cache."""

    def propose(self, text: list[int], most: int) -> Draft:
        """Up to `most` tokens that may follow `text`, which only grows."""


def accept_or_resample(
    scores: Tensor, generators: Sequence[torch.Generator], token: int, q: Tensor
) -> Tensor:  # (1, V) -> (1,)
    """Accept `token`, drawn from q, with probability min(1, p / q), else draw from max(p - q, 0); p: of `scores`.

    The result is distributed as p. A rejected token is never drawn again. Where q is one-hot this is a draw from p.
    """
    (p,) = probabilities(scores)  # (V,)
    q = q.to(p)
    if torch.rand(1, generator=generators[0], dtype=torch.float64).item() * q[token] < p[token]:
        return torch.tensor([token], device=scores.device)
    residual = (p - q).clamp(min=0)
    return pick((residual if residual.any() else p)[None], generators)  # all 0 where p and q differ by rounding alone


LONGEST, SHORTEST = 8, 2  # tokens at the end of the text that are looked for in it
PADDING = 128  # a vocabulary may be filled up to a round number


class PromptLookup:
    """What followed the last time the text ended as it does now (Saxena 2023): costs next to nothing."""

    nbytes = 0

    def __init__(self) -> None:
        self.letters = ""  # the text, a letter for each token: a search in it is `str.rfind`

    def propose(self, text: list[int], most: int) -> Draft:
        self.letters += "".join(map(chr, text[len(self.letters) :]))
        back = self.back()
        return Draft([text[place % back - back] for place in range(most if back else 0)])

    def back(self) -> int:
        """How many tokens ago the longest end of the text that stood in it before ended, the last time; 0: none did."""
        for n in range(min(LONGEST, len(self.letters) - 1), SHORTEST - 1, -1):
            if (found := self.letters.rfind(self.letters[-n:], 0, -1)) >= 0:
                return len(self.letters) - (found + n)
        return 0


class DraftModel:
    """Another model writes on, through the same samplers. It sees as much of the text as its own context holds.

    longest: how many tokens of text there will be.
    """

    def __init__(
        self,
        model: Transformer,
        samplers: Samplers,
        generator: torch.Generator,
        vocab_size: int,
        longest: int,
        chunk: int,
    ) -> None:
        self.model, self.samplers, self.generator = model, samplers, generator
        self.vocab_size, self.chunk = vocab_size, chunk
        self.room = min(longest, model.config.context_length)
        self.view = OnePiece(model)  # what it sees of the text
        self.view.begin((), self.room)
        self.start = 0  # of the view

    @property
    def nbytes(self) -> int:
        return self.view.nbytes

    def propose(self, text: list[int], most: int) -> Draft:
        if len(text) - self.start + most > self.room:
            self.start = len(text) - max(1, self.room // 2)
        view, seen = text[self.start :], self.seen(text)
        most = min(most, self.room - len(view) + 1)
        tokens, q = list[int](), list[Tensor]()
        logits = self.read(view[self.view.begin(view, self.room, len(view) + most - 1) :])  # the last is not read
        while len(tokens) < most:
            q.append(probabilities(self.samplers(logits, seen)))  # (1, V)
            tokens += pick(q[-1], [self.generator]).tolist()
            if self.samplers.remembers:
                seen[0, tokens[-1]] = True
            if len(tokens) < most:
                logits = self.read(tokens[-1:])
        return Draft(tokens, torch.cat(q) if q else None)

    def seen(self, text: list[int]) -> Tensor:
        """(1, V) the tokens in the text, where a sampler asks for them."""
        seen = torch.zeros(1, self.vocab_size, dtype=torch.bool, device=self.model.embed.weight.device)
        if self.samplers.remembers:
            seen[0, text] = True
        return seen

    def read(self, ids: list[int]) -> Tensor:  # -> (1, V)
        """Logits of the token after these."""
        with evaluating(self.model):
            for start in range(0, len(ids), self.chunk):
                hidden = self.view.read(ids[start : start + self.chunk])[:, -1]  # (1, d)
        return finite(self.model.unembed(hidden)[:, : self.vocab_size], "the draft model")


def check_draft(model: Transformer, draft: Transformer, options: GenerateOptions, vocab_size: int) -> None:
    """FathomError when there are two proposers, or the draft model cannot have the vocabulary of the model."""
    if options.speculate != "off":
        raise FathomError(f"speculate is {options.speculate!r} and there is a draft model; choose one of them")
    ours, theirs = model.config.vocab_size, draft.config.vocab_size
    if theirs < vocab_size or abs(theirs - ours) > PADDING:
        raise FathomError(
            f"the draft model has {theirs:,} tokens and the model {ours:,}; expected one with the same vocabulary"
        )


def check_tokens(ours: Tokenizer, theirs: Tokenizer) -> None:
    """FathomError when an id is not the same text in both; what is no text may differ."""
    special = {*ours.special.names.values(), *theirs.special.names.values(), *ours.special.end_ids, ours.bos}
    for token in range(min(ours.vocab_size, theirs.vocab_size)):
        here, there = ours.decode_bytes([token]), theirs.decode_bytes([token])
        if here != there and token not in special:
            raise FathomError(
                f"the draft model has another vocabulary: token {token} is {there.decode('utf-8', 'replace')!r} there"
                f" and {here.decode('utf-8', 'replace')!r} in the model; choose one with the same tokenizer"
            )
