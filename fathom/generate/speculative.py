"""Several tokens for one pass: something guesses what comes next, the model reads the guess whole and judges it.

A pass over k tokens costs hardly more than over one, as long as both wait for the weights to be read. What is kept
follows the model's own distribution exactly, after all samplers (Leviathan et al. 2023, algorithm 1; Chen et al. 2023,
theorem 1). Does not know where guesses come from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from fathom.generate.choose import Chooser, Chosen, Draw, evaluating
from fathom.generate.row import Row
from fathom.generate.sampling import chances, draw, pick

MOST = 16  # tokens that are proposed for one pass
FIRST = 4  # and for the first one


@dataclass(frozen=True)
class Draft:
    """A guess: tokens, and the distribution q that each was drawn from; None: they were not drawn, q is certain."""

    tokens: list[int] = field(default_factory=list)
    q: Tensor | None = None  # (k, V)

    def judge(self, place: int) -> Draw:
        """How the token at this place of the draft is chosen, or the one that follows all of it."""
        if self.q is None or place == len(self.tokens):
            return draw
        return partial(settle, token=self.tokens[place], q=self.q[place])


class Proposer(Protocol):
    """What guesses."""

    @property
    def nbytes(self) -> int:
        """Of what it keeps of the past."""

    def propose(self, text: list[int], seen: Tensor, most: int) -> Draft:
        """Up to `most` tokens that may follow `text`, which only ever grows. `seen` (1, V): which tokens it holds."""


def settle(scores: Tensor, generators: Sequence[torch.Generator], token: int, q: Tensor) -> Tensor:  # (1, V) -> (1,)
    """`token`, drawn from q, with probability min(1, p / q), else a draw from what p has more than q; p: of `scores`.

    The result is distributed as p: min(p, q) comes from what is kept and max(p - q, 0) from what is not. A token that
    was not kept is never drawn again. Where q is certain this is the same as a draw from p.
    """
    (p,) = chances(scores)  # (V,)
    q = q.to(p)
    if torch.rand(1, generator=generators[0], dtype=torch.float64).item() * q[token] < p[token]:
        return torch.tensor([token], device=scores.device)
    more = (p - q).clamp(min=0)
    return pick((more if more.any() else p)[None], generators)  # nothing is more where they differ by rounding alone


class Speculative:
    """Chooses for one row: in each pass as much of a draft as the model agrees to, and one token more.

    A draft is up to twice as long as the one before if all of that was kept, else as long as what was kept.
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
        chosen = self.judged(row, draft) if draft.tokens else self.chooser.choose(live)
        self.text += [token for _, token, _ in chosen]
        return chosen

    def judged(self, row: Row, draft: Draft) -> list[Chosen]:
        """The draft up to the first token that is not kept, and in its place, or after all of it, one more."""
        with evaluating(self.chooser.model):
            logits = self.chooser.checked(self.reader.ahead(row.window, draft.tokens))  # (1 + k, V)
        chosen: list[Chosen] = []
        for place, here in enumerate(logits.split(1)):  # (1, V)
            chosen += self.chooser.sample(here, [row], draft.judge(place))
            if [chosen[-1][1]] != draft.tokens[place : place + 1]:
                break
        self.learn(len(draft.tokens), len(chosen) - 1)
        return chosen

    def learn(self, proposed: int, kept: int) -> None:
        """Forget what was read and not kept; how much to propose next."""
        self.reader.rewind(proposed - kept)
        self.length = min(MOST, 2 * self.length) if kept == proposed else max(1, kept)
        facts = self.chooser.facts
        facts.proposed, facts.accepted = (facts.proposed or 0) + proposed, facts.accepted + kept
