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

from fathom.backend.inference import cache_for
from fathom.errors import FathomError
from fathom.generation.context import fits
from fathom.generation.options import GenerateOptions
from fathom.generation.sampling import Chooser, Chosen, Draw, Samplers, draw, evaluating, finite, pick, probabilities
from fathom.generation.text import Row
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

    def propose(self, text: list[int], seen: Tensor, most: int) -> Draft:
        """Up to `most` tokens that may follow `text`, which only grows. `seen` (1, V): the tokens in it."""


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


class Speculative:
    """Chooses for one row: in each pass the accepted part of a draft, and one token more.

    A draft is up to twice as long as the last if all of that was accepted, else as long as its accepted part.
    """

    def __init__(self, chooser: Chooser, proposer: Proposer) -> None:
        self.chooser, self.reader, self.proposer = chooser, chooser.reader, proposer
        self.length, self.text = FIRST, list[int]()

    @property
    def nbytes(self) -> int:
        return self.chooser.nbytes + self.proposer.nbytes

    @torch.no_grad()
    def choose(self, live: Sequence[Row]) -> list[Chosen]:
        """The row's next tokens, one or more."""
        (row,) = live
        self.text = self.text or list(row.window.ids)
        room = min(self.length, row.left - 1, self.reader.spare(row.window))
        draft = self.proposer.propose(self.text, self.chooser.seen, room)
        chosen = self.verified(row, draft) if draft.tokens else self.chooser.choose(live)
        self.text += [token for _, token, _ in chosen]
        return chosen

    def verified(self, row: Row, draft: Draft) -> list[Chosen]:
        """The draft up to its first rejected token, and one more in its place or after all of it."""
        with evaluating(self.chooser.model):
            logits = self.chooser.over_vocabulary(self.reader.ahead(row.window, draft.tokens))  # (1 + k, V)
        chosen: list[Chosen] = []
        for place, here in enumerate(logits.split(1)):  # (1, V)
            chosen += self.chooser.sample(here, [row], draft.verifier(place))
            if [chosen[-1][1]] != draft.tokens[place : place + 1]:
                break
        self.adapt(len(draft.tokens), len(chosen) - 1)
        return chosen

    def adapt(self, proposed: int, accepted: int) -> None:
        """Rewind the cache over rejected tokens; choose the length of the next draft."""
        self.reader.rewind(proposed - accepted)
        self.length = min(MOST, 2 * self.length) if accepted == proposed else max(1, accepted)
        stats = self.chooser.stats
        stats.proposed, stats.accepted = (stats.proposed or 0) + proposed, stats.accepted + accepted


LONGEST, SHORTEST = 8, 2  # tokens at the end of the text that are looked for in it
PADDING = 128  # a vocabulary may be filled up to a round number


class PromptLookup:
    """What followed the last time the text ended as it does now (Saxena 2023): costs next to nothing."""

    nbytes = 0

    def __init__(self) -> None:
        self.letters = ""  # the text, a letter for each token: a search in it is `str.rfind`

    def propose(self, text: list[int], seen: Tensor, most: int) -> Draft:
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
        self.device, dtype = model.embed.weight.device, model.embed.weight.dtype
        fits(model.config, 1, self.room, dtype, self.device)
        self.cache = cache_for(model, 1, self.room)
        self.kept: list[int] = []  # the tokens in the cache
        self.start = 0  # of what is in view

    @property
    def nbytes(self) -> int:
        return self.cache.nbytes

    def propose(self, text: list[int], seen: Tensor, most: int) -> Draft:
        if len(text) - self.start + most > self.room:
            self.start = len(text) - max(1, self.room // 2)
        view, seen = text[self.start :], seen.to(self.device, copy=True)
        most = min(most, self.room - len(view) + 1)
        same = shared(self.kept, view[:-1])
        same = same if self.cache.can_rewind(same) else 0
        self.cache.rewind(same)
        self.kept = view[:same]
        tokens, q = list[int](), list[Tensor]()
        logits = self.read(view[same:])
        while len(tokens) < most:
            q.append(probabilities(self.samplers(logits, seen)))  # (1, V)
            tokens += pick(q[-1], [self.generator]).tolist()
            seen[0, tokens[-1]] = True
            if len(tokens) < most:
                logits = self.read(tokens[-1:])
        return Draft(tokens, torch.cat(q) if q else None)

    def read(self, ids: list[int]) -> Tensor:  # -> (1, V)
        """Logits of the token after these."""
        with evaluating(self.model):
            for chunk in torch.tensor([ids], device=self.device).split(self.chunk, dim=1):
                hidden = self.model.hidden(chunk, self.cache)[:, -1]  # (1, d)
        self.kept += ids
        return finite(self.model.unembed(hidden)[:, : self.vocab_size], "the draft model")


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((place for place, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


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
