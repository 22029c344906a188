"""From the logits of the next token to the token.

Each sampler is a function logits (b, V) -> logits (b, V), float32, that moves logits or sets those it leaves out to
-inf; nothing is renormalised until `chances`, whose softmax then spreads the probability over the kept set alone. Does
not know models or text.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.generate.context import Reader
from fathom.generate.options import SamplingOptions
from fathom.generate.text import Facts, Row
from fathom.model.transformer import Transformer

OUT = float("-inf")
FIRST = 512  # the likeliest tokens among which a nucleus is sought before all are sorted


def temperature(logits: Tensor, value: float) -> Tensor:
    """Differences of logits divided by `value`; 0 leaves only the likeliest token (of equals, the first)."""
    if value == 0:
        return torch.full_like(logits, OUT).scatter_(-1, logits.argmax(-1, keepdim=True), 0.0)
    return (logits - logits.amax(-1, keepdim=True)) / max(value, 1e-30)  # at most 0: nothing overflows


def top_k(logits: Tensor, k: float) -> Tensor:
    """Only the k likeliest, with all that tie with the k-th (Fan et al. 2018)."""
    least = logits.topk(min(int(k), logits.shape[-1])).values[:, -1:]
    return logits.masked_fill(logits < least, OUT)


def top_p(logits: Tensor, p: float) -> Tensor:
    """The nucleus: the fewest likeliest tokens whose probabilities reach p together (Holtzman et al. 2020, eq. 2)."""
    whole = logits.shape[-1]
    for k in (FIRST, whole) if logits.is_cpu and whole > FIRST else (whole,):  # a GPU sorts sooner than it answers
        ordered = logits.topk(k).values
        chances = (ordered - logits.logsumexp(-1, keepdim=True)).exp()
        before = chances.cumsum(-1) - chances
        if k < whole and (before[:, -1] >= p).all():
            break
    count = (before < p).sum(-1, keepdim=True).clamp(min=1)  # those before it do not suffice
    least = ordered.gather(-1, count - 1)
    equal, more = logits == least, logits > least
    first = equal & (equal.cumsum(-1) <= count - more.sum(-1, keepdim=True))  # of equals, the first
    return logits.masked_fill(~(more | first), OUT)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Only tokens at least p times as probable as the likeliest (Nguyen et al. 2024, eq. 1)."""
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(p), OUT)


def repetition_penalty(logits: Tensor, penalty: float, seen: Tensor) -> Tensor:
    """Positive logits of tokens in `seen` (b, V) divided by `penalty`, negative ones times it (Keskar et al. 2019)."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


FILTERS = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}


@dataclass(frozen=True)
class Samplers:
    """Samplers in an explicit order, as a function of the logits and of the tokens `seen` (b, V) in each row."""

    options: SamplingOptions

    def __call__(self, logits: Tensor, seen: Tensor) -> Tensor:  # (b, V), (b, V) -> (b, V)
        for name, value in self.options.steps():
            if name == "repetition_penalty":
                logits = repetition_penalty(logits, value, seen)
            else:
                logits = FILTERS[name](logits, value)
        return logits

    def describe(self) -> str:
        return self.options.describe()


def chances(logits: Tensor) -> Tensor:  # (b, V) -> (b, V)
    """softmax(logits), in float64 where the device has it."""
    return logits.to(torch.float32 if logits.device.type == "mps" else torch.float64).softmax(-1)


def pick(weights: Tensor, generators: Sequence[torch.Generator]) -> Tensor:  # (b, V) -> (b,)
    """One token for each row, as often as its share of the row's weights, by the inverse of their running sum.

    One uniform number for each row, from its own CPU generator: a row's draws do not hang on the rows beside it.
    """
    up_to = weights.cumsum(-1)  # (b, V)
    mark = 1 - torch.stack([torch.rand(1, generator=g, dtype=weights.dtype) for g in generators])  # (b, 1) in (0, 1]
    return torch.searchsorted(up_to, mark.to(weights.device) * up_to[:, -1:]).squeeze(-1)


def draw(logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:  # (b, V) -> (b,)
    """One token for each row from softmax(logits)."""
    return pick(chances(logits), generators)


# How the next token of each row is chosen: read what is in view, sample, draw.
#
# Does not know text, nor when a row ends.

Chosen = tuple[Row, int, float]  # a row, its next token, and ln of the model's own probability of that token
Draw = Callable[[Tensor, Sequence[torch.Generator]], Tensor]  # as `sampling.draw`


class Chooser:
    """One token for each row in each pass.

    Each row has a generator of its own: its draws do not hang on the rows beside it.
    """

    def __init__(
        self, model: Transformer, reader: Reader, samplers: Samplers, rows: Sequence[Row], facts: Facts, vocab_size: int
    ) -> None:
        self.model, self.reader, self.samplers, self.facts = model, reader, samplers, facts
        self.vocab_size, self.device = vocab_size, model.embed.weight.device
        self.generators = [torch.Generator().manual_seed(facts.seed + row.index) for row in rows]
        self.seen = torch.zeros(len(rows), vocab_size, dtype=torch.bool, device=self.device)  # tokens in each text
        for row in rows:
            self.seen[row.index, row.window.ids] = True

    @property
    def nbytes(self) -> int:
        """Of what is kept of the past."""
        return self.reader.nbytes

    @torch.no_grad()
    def choose(self, live: Sequence[Row]) -> list[Chosen]:
        """The next token of each row."""
        with evaluating(self.model):
            logits = self.reader.logits([row.window for row in live])
        return self.sample(self.checked(logits), live)

    def checked(self, logits: Tensor) -> Tensor:
        """What the model says, as `finite` has it."""
        return finite(logits[:, : self.vocab_size])

    def sample(self, logits: Tensor, live: Sequence[Row], draw: Draw = draw) -> list[Chosen]:
        """A token for each row from its logits (b, V), which from then on is one of those seen."""
        index = torch.tensor([row.index for row in live], device=self.device)
        ids = draw(self.samplers(logits, self.seen[index]), [self.generators[row.index] for row in live])  # (b,)
        self.seen[index, ids] = True
        logprobs = logits.log_softmax(-1).gather(1, ids[:, None])  # (b, 1)
        return list(zip(live, ids.tolist(), logprobs.flatten().tolist()))


def finite(logits: Tensor, of: str = "the model") -> Tensor:  # (b, V) -> (b, V)
    """Logits in float32, refused when they are not numbers."""
    if not logits.amax(-1).isfinite().all():
        raise FathomError(f"{of}'s logits are not finite numbers; its weights are damaged or its dtype too small")
    return logits.float()


@contextmanager
def evaluating(model: Transformer) -> Iterator[None]:
    """Without dropout; afterwards as before."""
    training = model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()
