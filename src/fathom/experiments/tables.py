"""The result of a ladder in words: two tables for a terminal of 80 columns, verdicts with their reasons, findings."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from fathom.anatomy.cost import n_active_parameters, n_parameters
from fathom.experiments.result import Estimate, LadderResult
from fathom.experiments.rungs import Rung
from fathom.experiments.take_aways import FINISHED
from fathom.report.table import table
from fathom.words import counted, signed

NUMBERS = (1, 2, 3)
BOUGHT = {1: "better", -1: "worse"}  # by the sign of a gain
WORTH = {1: "needed", -1: "better without"}  # by the sign of a worth
CLOSE = {0: "too close to call", None: "one seed: unknown"}


def verdict(estimate: Estimate, words: dict[int, str]) -> str:
    """One of BOUGHT or WORTH where the interval excludes 0, else why there is none."""
    sign = estimate.sign
    return words[sign] if sign else CLOSE[sign]


def reason(estimate: Estimate) -> str:
    """Why a verdict is what it is: the interval of the difference, against 0."""
    if estimate.half_width is None:
        return "one seed gives no interval"
    low, high = (signed(estimate.mean + side * estimate.half_width) for side in (-1, 1))
    where = {1: "above 0", -1: "below 0", 0: "contains 0"}[estimate.sign or 0]
    return f"{counted(estimate.n, 'seed')}, 95% interval {low} to {high}: {where}"


def difference(estimate: Estimate) -> str:
    """A signed difference ± half the width of its interval."""
    return signed(estimate.mean) + ("" if estimate.half_width is None else f" ± {estimate.half_width:.3f}")


def spread(loss: Estimate) -> str:
    """Mean ± half the width of its interval."""
    return f"{loss.mean:.4f}" if loss.half_width is None else f"{loss.mean:.4f} ± {loss.half_width:.3f}"


def terminal(result: LadderResult) -> RenderableType:
    """The result for a terminal: the ladder, then what each idea is worth in the finished models."""
    parts: list[RenderableType] = [
        table(("rung", "params", "loss", "what it bought", "verdict"), ladder_rows(result), NUMBERS)
    ]
    if result.take_aways:
        heads = ("leave one out", "params", "loss", "loss rises by", "verdict")
        parts += [Text(""), table(heads, take_away_rows(result), NUMBERS)]
    return Group(*parts)


def ladder_rows(result: LadderResult) -> list[Sequence[str]]:
    """The baselines, then each rung."""
    counted = [(name, "", f"{loss:.3f}", "", "reference") for name, loss in result.references.named().items()]
    rungs = [*result.ladder, *result.beside]
    return [*counted, *(row(rung.title, rung, result, result.gain(rung.key), BOUGHT) for rung in rungs)]


def take_away_rows(result: LadderResult) -> Iterator[Sequence[str]]:
    """Each finished model, then what it is without each idea."""
    ladder = {rung.key: rung for rung in result.ladder}
    for key, name in FINISHED.values():
        if own := [rung for rung in result.take_aways if rung.whole == key]:
            yield row(name, ladder[key], result, None, WORTH)
        for rung in own:
            title = "– " + rung.title.removeprefix(f"{name} without ")
            yield row(title, rung, result, result.worth(rung), WORTH)


def row(
    title: str, rung: Rung, result: LadderResult, estimate: Estimate | None, words: dict[int, str]
) -> Sequence[str]:
    """One model as a row."""
    loss = result.loss(rung.key)
    measured = f"{loss.mean:.3f}" if loss else "–"
    about = (difference(estimate), verdict(estimate, words)) if estimate else ("", "" if loss else "not measured")
    return (title, f"{n_parameters(rung.config):,}", measured, *about)


def summary(result: LadderResult) -> list[str]:
    """The findings, in sentences."""
    seeds, sentences = result.options.seeds, []
    for sign, words in (
        (1, "Better than the rung below it"),
        (-1, "Worse than the rung below it"),
        (0, f"Too close to call with {counted(seeds, 'seed')}"),
    ):
        titles = [r.title for r in result.ladder if (b := result.gain(r.key)) and b.sign == sign]
        sentences += [f"{words}: {', '.join(titles)}."] if titles else []
    return [*sentences, *apart(result), *needs(result), *peeking(result), *limits(result)]


def apart(result: LadderResult) -> Iterator[str]:
    """What a rung beside the ladder buys, and what a token meets of it."""
    for rung in result.beside:
        other, gain = result.below(rung.key), result.gain(rung.key)
        if other and gain:
            sizes = [f"{n_active_parameters(each.config):,}" for each in (rung, other)]
            yield (
                f"{rung.title.split(' (')[0].capitalize()} beside {other.title}: {difference(gain)}, "
                f"{verdict(gain, BOUGHT)}; a token meets {sizes[0]} of {n_parameters(rung.config):,} parameters, "
                f"against {sizes[1]}."
            )


def limits(result: LadderResult) -> Iterator[str]:
    """What no seed or no training can go beyond."""
    if result.options.seeds == 1:
        yield "One seed gives no interval for a difference: use at least 3 for a verdict."
    if bigram := result.loss("bigram"):
        gap = bigram.mean - result.references.bigram
        yield f"The trained bigram is {signed(gap)} from the counted one, which is its limit."


def needs(result: LadderResult) -> Iterator[str]:
    """What the finished models lose most by."""
    for key, name in FINISHED.values():
        worths = [(w.mean, r) for r in result.take_aways if r.whole == key and (w := result.worth(r)) and w.sign == 1]
        most = sorted(worths, key=lambda pair: -pair[0])
        ideas = [f"{rung.title.removeprefix(f'{name} without ')} ({signed(rise)})" for rise, rung in most]
        if ideas:
            yield f"{name} needs, from most to least: {', '.join(ideas)}."


def peeking(result: LadderResult) -> Iterator[str]:
    """What the loss of a model without a causal mask means."""
    found = [
        (f"{seen:.3f}", f"{loss.mean:.3f}", rung.title.split(" without ")[0])
        for rung in result.take_aways
        if (seen := result.peeking(rung.key)) is not None and (loss := result.loss(rung.key))
    ]
    if found:
        seen_losses, losses, names = (" and ".join(words) for words in zip(*found))
        yield (
            f"Without the causal mask, {names} reached {seen_losses} in training, with the token to predict in view; "
            f"where no later token exists, as in generation, the loss is {losses}."
        )
