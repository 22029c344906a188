"""Options of text generation, validated before anything runs.

`None` turns a sampler off; temperature 0 is greedy. The order of samplers is an option too, because it changes the
result. Does not import torch, so that the command line starts quickly.
"""

import math
from dataclasses import dataclass
from typing import Literal

from fathom.errors import FathomError, near

PastContext = Literal["slide", "stop", "extend"]
Speculate = Literal["off", "lookup"]
PENALTIES = ("presence_penalty", "frequency_penalty")  # of tokens generated so far
ORDER = ("repetition_penalty", *PENALTIES, "temperature", "top_k", "top_p", "min_p")  # that of transformers and vLLM
NEUTRAL: dict[str, float] = {  # the same as off
    "repetition_penalty": 1, "temperature": 1, "top_p": 1, "min_p": 0, **dict.fromkeys(PENALTIES, 0),
}  # fmt: skip


@dataclass(frozen=True)
class Bias:
    """What is added to the logit of a token before all samplers: from -100 (never) to 100 (always)."""

    token: int
    value: float


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How the next token is chosen from the logits."""

    temperature: float | None = 1.0  # randomness: below 1 sharper, above 1 flatter, 0 always the likeliest token
    top_k: int | None = None  # keep the K likeliest tokens
    top_p: float | None = None  # keep the fewest likeliest tokens whose probabilities add up to P
    min_p: float | None = None  # keep tokens at least P times as likely as the likeliest
    repetition_penalty: float | None = None  # penalise tokens already in the text, if above 1
    presence_penalty: float | None = None  # taken from the logits of tokens that were generated, if above 0
    frequency_penalty: float | None = None  # the same for each time that a token was generated
    logit_bias: tuple[Bias, ...] = ()  # what is added to the logits of some tokens; empty: nothing
    samplers: tuple[str, ...] = ORDER  # order of the samplers, separated by commas

    def __post_init__(self) -> None:
        names = tuple(name.strip().replace("-", "_") for name in self.samplers)
        object.__setattr__(self, "samplers", names)
        for problem in _sampling_problems(self):
            raise FathomError(problem)

    def steps(self) -> tuple[tuple[str, float], ...]:
        """The active samplers in their order, each with its value."""
        values = ((name, getattr(self, name)) for name in self.samplers)
        return tuple((name, value) for name, value in values if value is not None and value != NEUTRAL.get(name))

    def describe(self) -> str:
        """One line, such as `temperature 0.8 -> top_k 40 -> draw`."""
        return " -> ".join([*(f"{name} {value:g}" for name, value in self.steps()), "draw"])


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(SamplingOptions):
    """How the next token is chosen, how many are generated and where generation ends."""

    max_new_tokens: int = 256  # most tokens to generate
    stop: tuple[str, ...] = ()  # stop before this text; empty: none
    num_samples: int = 1  # continuations of each prompt, generated side by side
    seed: int | None = None  # seed of the random choices; None: a new one each time
    use_cache: bool = True  # use the KV cache; without it, recompute everything for each token
    past_context: PastContext = "slide"  # full context: drop the older half, stop, or extend it (rope only)
    prefill_chunk: int = 512  # tokens of the prompt per forward pass; bounds the memory
    speculate: Speculate = "off"  # lookup: prompt lookup; same output, faster on text that repeats itself

    def __post_init__(self) -> None:
        super().__post_init__()
        for problem in _length_problems(self):
            raise FathomError(problem)


def _sampling_problems(o: SamplingOptions) -> list[str]:
    problems = []
    if o.temperature is not None and not 0 <= o.temperature < math.inf:
        problems.append(f"temperature is {o.temperature}; expected 0 (always the likeliest token) or more")
    if o.top_k is not None and not o.top_k >= 1:
        problems.append(f"top_k is {o.top_k}; expected at least 1; leave it out to keep all tokens")
    if o.top_p is not None and not 0 < o.top_p <= 1:
        problems.append(f"top_p is {o.top_p}; expected a probability above 0 and up to 1; 1 keeps all tokens")
    if o.min_p is not None and not 0 <= o.min_p <= 1:
        problems.append(f"min_p is {o.min_p}; expected a share from 0 to 1; 0 keeps all tokens")
    if o.repetition_penalty is not None and not 0 < o.repetition_penalty < math.inf:
        problems.append(f"repetition_penalty is {o.repetition_penalty}; expected a number above 0; 1 is off")
    for name in PENALTIES:
        if (value := getattr(o, name)) is not None and not -2 <= value <= 2:
            problems.append(f"{name} is {value}; expected -2 to 2; 0 is off")
    for bias in o.logit_bias:
        if not -100 <= bias.value <= 100:
            problems.append(f"logit_bias of token {bias.token} is {bias.value}; expected -100 to 100")
    return problems or _order_problems(o)


def _order_problems(o: SamplingOptions) -> list[str]:
    for name in o.samplers:
        if name not in ORDER:
            return [f"unknown sampler {name!r}{near(name, ORDER, then='samplers')} are {', '.join(ORDER)}"]
        if o.samplers.count(name) > 1:
            return [f"samplers names {name} {o.samplers.count(name)} times; expected each at most once"]
    values = {name: getattr(o, name) for name in ORDER if name not in o.samplers}
    return [
        f"{name} is {value:g} but samplers is {','.join(o.samplers)!r}; add {name} to it or leave the value out"
        for name, value in values.items()
        if value is not None and value != NEUTRAL.get(name)
    ]


def _length_problems(o: GenerateOptions) -> list[str]:
    problems = [
        f"{name} is {getattr(o, name)}; expected at least 1"
        for name in ("max_new_tokens", "num_samples", "prefill_chunk")
        if getattr(o, name) < 1
    ]
    if "" in o.stop:
        problems.append("a stop string is empty; expected at least one character")
    if o.seed is not None and not 0 <= o.seed < 2**62:
        problems.append(f"seed is {o.seed}; expected a whole number from 0 to below 2**62")
    if o.past_context not in ("slide", "stop", "extend"):
        problems.append(f"past_context is {o.past_context!r}; choose one of slide, stop, extend")
    if o.speculate not in ("off", "lookup"):
        problems.append(f"speculate is {o.speculate!r}; choose off or lookup")
    return problems
