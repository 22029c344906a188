"""From the logits of the next token to the token.

Each sampler is a function logits (b, V) -> logits (b, V), float32, that changes logits or sets excluded ones to -inf;
nothing is renormalised until `probabilities`, whose softmax is over the kept set alone.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.errors import FathomError, OutsideVocabulary
from fathom.generation.options import SamplingOptions
from fathom.model.transformer import Transformer

OUT = float("-inf")
FIRST = 512  # a nucleus is searched among this many likeliest tokens before all are sorted


def temperature(logits: Tensor, value: float) -> Tensor:
    """Logits divided by `value`, relative to the largest; 0 keeps only the likeliest token (the first of equals)."""
    if value == 0:
        return torch.full_like(logits, OUT).scatter_(-1, logits.argmax(-1, keepdim=True), 0.0)
    return (logits - logits.amax(-1, keepdim=True)) / max(value, 1e-30)  # all <= 0: no overflow


def top_k(logits: Tensor, k: float) -> Tensor:
    """Keeps the k likeliest tokens, and all that tie with the k-th (Fan et al. 2018)."""
    least = logits.topk(min(int(k), logits.shape[-1])).values[:, -1:]
    return logits.masked_fill(logits < least, OUT)


def top_p(logits: Tensor, p: float) -> Tensor:
    """The nucleus: the fewest likeliest tokens whose probabilities reach p together (Holtzman et al. 2020, eq. 2)."""
    whole = logits.shape[-1]
    # softmax sums a row in one thread, however many rows there are; logsumexp divides the sum of a single one
    log_of_first = logits.log_softmax(-1).amax(-1, keepdim=True)
    for k in (
        (FIRST, whole) if logits.is_cpu and whole > FIRST else (whole,)
    ):  # on a GPU sorting all is faster than a host check
        ordered = logits.topk(k).values
        p_sorted = (ordered - ordered[:, :1] + log_of_first).exp()
        before = p_sorted.cumsum(-1) - p_sorted
        if k < whole and (before[:, -1] >= p).all():
            break
    count = (before < p).sum(-1, keepdim=True).clamp(min=1)  # tokens whose predecessors do not reach p
    least = ordered.gather(-1, count - 1)
    equal, more = logits == least, logits > least
    first = equal & (equal.cumsum(-1) <= count - more.sum(-1, keepdim=True))  # the first of equals
    return logits.masked_fill(~(more | first), OUT)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Only tokens at least p times as probable as the likeliest (Nguyen et al. 2024, eq. 1)."""
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(p), OUT)


def repetition_penalty(logits: Tensor, penalty: float, seen: Tensor) -> Tensor:
    """Positive logits of tokens in `seen` (b, V) divided by `penalty`, negative ones times it (Keskar et al. 2019)."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def presence_penalty(logits: Tensor, penalty: float, counts: Tensor) -> Tensor:
    """Logits of tokens that were generated, by `counts` (b, V), minus `penalty` (OpenAI's definition, as the next)."""
    return logits - penalty * (counts > 0)


def frequency_penalty(logits: Tensor, penalty: float, counts: Tensor) -> Tensor:
    """Logits minus `penalty` for each time that the token was generated."""
    return logits - penalty * counts


FILTERS = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
COUNTED = {"presence_penalty": presence_penalty, "frequency_penalty": frequency_penalty}


@dataclass(frozen=True)
class Samplers:
    """Samplers in an explicit order, as a function of the logits, of the tokens `seen` (b, V) in each row, and of how
    often each was generated, `counts` (b, V); None: none was."""

    options: SamplingOptions

    def __call__(self, logits: Tensor, seen: Tensor, counts: Tensor | None = None) -> Tensor:  # (b, V) -> (b, V)
        logits = self.biased(logits)
        for name, value in self.options.steps():
            if name == "repetition_penalty":
                logits = repetition_penalty(logits, value, seen)
            elif name in COUNTED:
                logits = logits if counts is None else COUNTED[name](logits, value, counts)
            else:
                logits = FILTERS[name](logits, value)
        return logits

    def biased(self, logits: Tensor) -> Tensor:  # (b, V) -> (b, V)
        if not (bias := self.options.logit_bias):
            return logits
        if wrong := [each.token for each in bias if not 0 <= each.token < logits.shape[-1]]:
            raise OutsideVocabulary(f"logit_bias names token {wrong[0]}; expected 0 to {logits.shape[-1] - 1}")
        ids = torch.tensor([each.token for each in bias], device=logits.device)
        values = torch.tensor([each.value for each in bias], dtype=logits.dtype, device=logits.device)
        return logits.index_add(-1, ids, values.expand(len(logits), -1))

    @property
    def remembers(self) -> bool:
        """Whether a sampler asks which tokens are in the text."""
        return any(name == "repetition_penalty" for name, _ in self.options.steps())

    @property
    def counted(self) -> bool:
        """Whether a sampler asks how often tokens were generated."""
        return any(name in COUNTED for name, _ in self.options.steps())

    def describe(self) -> str:
        return self.options.describe()


def probabilities(logits: Tensor) -> Tensor:  # (b, V) -> (b, V)
    """softmax(logits), in float64 where the device has it."""
    return logits.to(torch.float32 if logits.device.type == "mps" else torch.float64).softmax(-1)


def pick(weights: Tensor, generators: Sequence[torch.Generator]) -> Tensor:  # (b, V) -> (b,)
    """One token per row, drawn in proportion to the row's weights by inverting their cumulative sum.

    One uniform number per row from its own CPU generator: samples do not depend on the batch.
    """
    cumulative = weights.cumsum(-1)  # (b, V)
    threshold = 1 - torch.stack(
        [torch.rand(1, generator=g, dtype=weights.dtype) for g in generators]
    )  # (b, 1) in (0, 1]
    return torch.searchsorted(cumulative, threshold.to(weights.device) * cumulative[:, -1:]).squeeze(-1)


def draw(logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:  # (b, V) -> (b,)
    """One token per row from softmax(logits)."""
    return pick(probabilities(logits), generators)


Draw = Callable[[Tensor, Sequence[torch.Generator]], Tensor]  # such as `draw`
NOT_FINITE = "{}'s logits are not finite; its weights are damaged or its dtype is too narrow"


def finite(logits: Tensor, of: str) -> Tensor:  # (b, V) -> (b, V)
    """Logits in float32; FathomError where they are not finite."""
    if not logits.amax(-1).isfinite().all():
        raise FathomError(NOT_FINITE.format(of))
    return logits.float()


@contextmanager
def evaluating(model: Transformer) -> Iterator[None]:
    """In evaluation mode (no dropout) inside; the mode is restored."""
    training = model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()
