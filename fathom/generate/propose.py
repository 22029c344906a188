"""Where guesses come from: from the text itself, which repeats, or from a smaller model of the same vocabulary.

Does not know who judges them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.generate.choose import evaluating, finite
from fathom.generate.context import fits
from fathom.generate.options import GenerateOptions
from fathom.generate.sampling import Samplers, chances, pick
from fathom.generate.speculative import Draft
from fathom.model.cache import KVCache
from fathom.model.transformer import Transformer
from fathom.tokenizer.protocol import Tokenizer

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
        self.cache = KVCache(model.config, 1, self.room, dtype=dtype, device=self.device)
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
        self.cache.rewind(same)
        self.kept = view[:same]
        tokens, q = list[int](), list[Tensor]()
        logits = self.read(view[same:])
        while len(tokens) < most:
            q.append(chances(self.samplers(logits, seen)))  # (1, V)
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
    special = {*ours.special.names.values(), *theirs.special.names.values(), *ours.special.last, ours.bos}
    for token in range(min(ours.vocab_size, theirs.vocab_size)):
        here, there = ours.decode_bytes([token]), theirs.decode_bytes([token])
        if here != there and token not in special:
            raise FathomError(
                f"the draft model has another vocabulary: token {token} is {there.decode('utf-8', 'replace')!r} there"
                f" and {here.decode('utf-8', 'replace')!r} in the model; choose one with the same tokenizer"
            )
