"""P1: what comes next. The probabilities of all tokens, and what a sampler would draw from."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.generation.options import SamplingOptions
from fathom.generation.sampling import Samplers, probabilities
from fathom.glass.panel import Check, Panel, Series, checked
from fathom.glass.passes import Pass
from fathom.inspect.identities import sampler_renormalises

TOP = 50  # tokens with a bar of their own; the others share one


@dataclass(frozen=True)
class Options:
    """query: the position whose next token is shown, from the end where negative. The others are those of sampling."""

    query: int = -1
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def sampling(self) -> SamplingOptions:
        return SamplingOptions(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, min_p=self.min_p)


def distributions(logits: Tensor, options: SamplingOptions) -> tuple[Tensor, Tensor]:
    """What the model says and what a sampler draws from: probabilities (V,) each, in float64, of logits (V,)."""
    seen = torch.zeros(1, len(logits), dtype=torch.bool, device=logits.device)  # no sampler here depends on it
    return probabilities(logits[None])[0], probabilities(Samplers(options)(logits[None].float(), seen))[0]


def panel(run: Pass, options: Options) -> Panel:
    at, sampling = run.place(options.query), options.sampling()
    logits = run.logits[at]  # (V,)
    shown, drawn = distributions(logits, sampling)
    order = shown.argsort(descending=True, stable=True)[:TOP]
    setup = (
        'with torch.no_grad(), fathom.look(model, "logits") as seen:',
        "    model(ids)",
        "from fathom.generation.options import SamplingOptions",
        "from fathom.glass.next_token import distributions",
        f'logits = seen["logits"][0, {at}]',
        f"shown, drawn = distributions(logits, {sampling!r})",
        f"order = shown.argsort(descending=True, stable=True)[:{TOP}]",
    )
    rest = torch.stack((1 - shown[order].sum(), 1 - drawn[order].sum())).clamp(min=0)
    rank = ("rank",)
    series = {
        "p": Series(shown[order], "computed", "softmax(logits)", rank, "shown[order][{0}]", setup),
        "sampled": Series(drawn[order], "computed", sampling.describe(), rank, "drawn[order][{0}]", setup),
        "logits": Series(logits[order], "measured", "logits", rank, "logits[order][{0}]", setup),
        "ids": Series(order, "computed", "tokens by probability", rank, "order[{0}]", setup),
        "rest": Series(
            rest, "computed", "1 - the sum of the bars", ("column",), "1 - (shown, drawn)[{0}][order].sum()", setup
        ),
    }
    entropy = -(shown * shown.clamp(min=1e-300).log()).sum().item()
    texts = [{"id": id, "text": run.text_of(id)} for id in order.tolist()]
    facts = {"at": at, "entropy": entropy, "entropy_most": len(logits), "tokens": texts, "sampler": sampling.describe()}
    return Panel(series, checks(logits, shown, drawn, options.temperature), facts, (probabilities, Samplers))


def checks(logits: Tensor, shown: Tensor, drawn: Tensor, temperature: float) -> list[Check]:
    """C15 for both columns: all probabilities are the softmax, and the sampler divides those of its own set, of logits
    over the temperature, by their sum."""
    all_of_them = sampler_renormalises(logits.double(), shown, shown)
    warm = logits.double() / (temperature or 1)
    kept = sampler_renormalises(warm, probabilities(warm[None])[0], drawn)
    says = "the sampler renormalises its own set"
    return checked("C15", "sampler_renormalises", all_of_them | {says: kept[says]})
