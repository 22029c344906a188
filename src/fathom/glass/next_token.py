"""P1: what comes next. The probabilities of all tokens, what a sampler draws from, and what it draws."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.generation.options import SamplingOptions
from fathom.generation.sampling import Samplers, pick, probabilities
from fathom.glass.panel import Check, Panel, Series, checked
from fathom.glass.passes import Pass, ids_of
from fathom.inspect.identities import sampler_renormalises

TOP = 50  # tokens with a bar of their own; the others share one
MOST = 10_000  # draws


@dataclass(frozen=True)
class Options:
    """query: the position whose next token is shown, from the end where negative. draws: how many are drawn, with
    the seed of the pass. The others are those of sampling."""

    query: int = -1
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    draws: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.draws <= MOST:
            raise FathomError(f"draws is {self.draws}; expected 0 to {MOST:,}")

    def sampling(self) -> SamplingOptions:
        return SamplingOptions(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, min_p=self.min_p)


def distributions(logits: Tensor, options: SamplingOptions) -> tuple[Tensor, Tensor]:
    """What the model says and what a sampler draws from: probabilities (V,) each, in float64, of logits (V,)."""
    seen = torch.zeros(1, len(logits), dtype=torch.bool, device=logits.device)  # no sampler here depends on it
    return probabilities(logits[None])[0], probabilities(Samplers(options)(logits[None].float(), seen))[0]


def drawn_times(drawn: Tensor, draws: int, seed: int) -> Tensor:
    """How often each token comes (V,) in so many draws from probabilities (V,): those with which generation of so many
    samples with this seed begins."""
    counts = torch.zeros(len(drawn), dtype=torch.long)
    for start in range(0, draws, 64):
        seeds = range(seed + start, seed + min(start + 64, draws))
        tokens = pick(drawn.expand(len(seeds), -1), [torch.Generator().manual_seed(one) for one in seeds])
        counts += tokens.clamp(max=len(drawn) - 1).bincount(minlength=len(drawn)).cpu()
    return counts


def kept(run: Pass) -> list[Options]:
    """The next token after every token of the prompt, and after the last one in a few other ways."""
    others = [
        Options(draws=100),
        Options(temperature=0.5),
        Options(temperature=2.0),
        Options(top_k=5),
        Options(top_p=0.9),
    ]
    return [Options(), *others, *(Options(query) for query in range(max(0, run.t - 97), run.t - 1))]


def panel(run: Pass, options: Options) -> Panel:
    at, sampling = run.place(options.query), options.sampling()
    logits = run.logits[at]  # (V,)
    shown, drawn = distributions(logits, sampling)
    order, ranked = ranking(run, at, shown)
    setup = (
        'with torch.no_grad(), fathom.look(model, "logits") as seen:',
        "    model(ids)",
        "from fathom.generation.options import SamplingOptions",
        "from fathom.glass.next_token import distributions, drawn_times",
        f'logits = seen["logits"][0, {at}]',
        f"shown, drawn = distributions(logits, {sampling!r})",
        ranked,
    )
    rest = torch.stack((1 - shown[order].sum(), 1 - drawn[order].sum())).clamp(min=0)
    rank = ("rank",)
    entropy, formula = -(shown * shown.clamp(min=1e-300).log()).sum(), "-(shown * shown.clamp(min=1e-300).log()).sum()"
    series = {
        "entropy": Series(entropy, "computed", "-Σ p ln p, in nats", (), formula, setup),
        "p": Series(shown[order], "computed", "softmax(logits)", rank, "shown[order][{0}]", setup),
        "sampled": Series(drawn[order], "computed", sampling.describe(), rank, "drawn[order][{0}]", setup),
        "logits": Series(logits[order], "measured", "logits", rank, "logits[order][{0}]", setup),
        "ids": Series(order, "computed", "tokens by probability", rank, "order[{0}]", setup),
        "rest": Series(
            rest, "computed", "1 - the sum of the bars", ("column",), "1 - (shown, drawn)[{0}][order].sum()", setup
        ),
    }
    if options.draws:
        counts, many = drawn_times(drawn, options.draws, run.seed), f"{options.draws:,} draws with seed {run.seed}"
        code = f"drawn_times(drawn, {options.draws}, {run.seed})[order]"
        series["draws"] = Series(counts[order], "measured", many, rank, f"{code}[{{0}}]", setup)
        left = (options.draws - counts[order].sum())[None]
        series["rest_draws"] = Series(left, "measured", many, ("column",), f"{options.draws} - {code}.sum()", setup)
    facts = {
        "at": at,
        "choices": len(logits),
        "left": int((drawn > 0).sum()),
        "likeliest": int(series["p"].values.argmax()),  # its row: beside another model rows are in an order of both
        "sampler": sampling.describe(),
        **continuations(run, at, order.tolist()),
    }
    return Panel(series, checks(logits, shown, drawn, options.temperature), facts, (probabilities, Samplers, pick))


def continuations(run: Pass, at: int, ids: list[int]) -> dict[str, Any]:
    """The text up to a position, and each token with its text; `appends`: the text followed by the token's own is read
    as just these tokens again. A special token, or a part of a character, is not."""
    subject, past = run.subject, run.ids[0, : at + 1].tolist()
    if subject.tokenizer is None:
        before = "".join(f"{id} " for id in past)
    else:
        before = subject.tokenizer.decode(past[len(subject.tokenizer.prefix) :])
    tokens = [{"id": id, "text": run.text_of(id)} for id in ids]
    return {"before": before, "tokens": [one | {"appends": continues(run, before, past, one)} for one in tokens]}


def continues(run: Pass, before: str, past: list[int], token: dict[str, Any]) -> bool:
    return ids_of(run.subject, before + token["text"]) == [*past, token["id"]]


def ranking(run: Pass, at: int, shown: Tensor) -> tuple[Tensor, str]:
    """The likeliest tokens, and the line of Python that gives them. Beside another model those that are likeliest on
    average, so that both sides have the same bars."""
    other = None if run.beside is None else run.beside.logits[at]
    if other is None or len(other) != len(shown):
        line = f"order = shown.argsort(descending=True, stable=True)[:{TOP}]"
        return shown.argsort(descending=True, stable=True)[:TOP], line
    order = (shown + probabilities(other[None])[0]).argsort(descending=True, stable=True)[:TOP]
    return order, f"order = torch.tensor({order.tolist()})"


def checks(logits: Tensor, shown: Tensor, drawn: Tensor, temperature: float) -> list[Check]:
    """C15 for both columns: all probabilities are the softmax, and the sampler divides those of its own set, of logits
    over the temperature, by their sum."""
    all_of_them = sampler_renormalises(logits.double(), shown, shown)
    warm = logits.double() / (temperature or 1)
    kept = sampler_renormalises(warm, probabilities(warm[None])[0], drawn)
    says = "the sampler renormalises its own set"
    return checked("C15", "sampler_renormalises", all_of_them | {says: kept[says]})
