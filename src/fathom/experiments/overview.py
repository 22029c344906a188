"""The two tables at the top of the page: each idea with a bar, its verdict, the reason for it and its concept page.

On a phone the cells of a row stand below each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fathom.experiments.result import Estimate, LadderResult
from fathom.experiments.tables import BOUGHT, WORTH, difference, reason, verdict
from fathom.experiments.take_aways import FINISHED, TAKE_AWAYS
from fathom.report.html import Html, tag

DOCS = "https://github.com/fathom-lm/fathom/blob/main/docs/"
CLASSES = {1: "good", -1: "bad"}


def concept(page: str) -> Html:
    """A link to a concept page, named so that it can also be found in a clone."""
    return tag("a", f"docs/{page}", href=DOCS + page)


@dataclass(frozen=True)
class Scale:
    """What the bars of a table span, in nats per token."""

    low: float
    high: float

    @classmethod
    def of(cls, estimates: Sequence[Estimate]) -> "Scale":
        """From 0, or below it, to a little beyond the largest; a longer bar or interval is cut off."""
        means = [each.mean for each in estimates]
        return cls(1.15 * min([0.0, *means]), max([1e-9, *(1.15 * mean for mean in means)]))

    def at(self, value: float) -> float:
        """Where a value lies, from 0 to 100."""
        return 100 * min(max((value - self.low) / (self.high - self.low), 0), 1)


def bar(estimate: Estimate, scale: Scale) -> Html:
    """A bar from 0, with its interval as a thin line; one that leaves the scale has no end."""

    def stretch(start: float, end: float, kind: str) -> Html:
        left, right = sorted((scale.at(start), scale.at(end)))
        return tag("i", class_=kind, style=f"left:{left:.1f}%;width:{max(right - left, 0.4):.1f}%")

    colour = CLASSES.get(estimate.sign or 0, "noise")
    beyond = " beyond" if estimate.mean > scale.high else ""
    half = estimate.half_width or 0
    whisker = [] if beyond else [stretch(estimate.mean - half, estimate.mean + half, "interval")]
    return tag("span", stretch(0, estimate.mean, colour + beyond), *whisker, class_="bar")


def finding(estimate: Estimate, words: dict[int, str]) -> Html:
    """Difference and verdict."""
    return tag(
        "b", f"{difference(estimate)} {verdict(estimate, words)}", class_=CLASSES.get(estimate.sign or 0, "noise")
    )


def table(heads: Sequence[str], rows: Sequence[Html], kind: str) -> Html:
    head = tag("thead", tag("tr", *(tag("th", name) for name in heads)))
    return tag("table", head, tag("tbody", *rows), class_=f"ideas {kind}")


def cell(kind: str, *children: str) -> Html:
    return tag("td", *children, class_=kind)


def ladder_table(result: LadderResult) -> Html:
    """Each rung: its loss, what it bought and why that is the verdict."""
    every = [*result.ladder, *result.beside]
    gains = {rung.key: result.gain(rung.key) for rung in every}
    scale = Scale.of([gain for gain in gains.values() if gain])
    rows = []
    for place, rung in enumerate(every, 1):
        number = f"{place}. " if rung in result.ladder else ""
        loss, gain = result.loss(rung.key), gains[rung.key]
        rows.append(
            tag(
                "tr",
                cell("name", tag("a", f"{number}{rung.title}", href=f"#{rung.key}")),
                cell("level", f"{loss.mean:.3f}" if loss else "not measured"),
                cell("finding", *([bar(gain, scale), finding(gain, BOUGHT)] if gain else [counted(result)])),
                cell("why", *([reason(gain), " · "] if gain else []), concept(rung.page)),
            )
        )
    return table(("rung", "val loss", "what it bought, nats per token", "why, and where to read more"), rows, "rungs")


def counted(result: LadderResult) -> Html:
    """What the first rung is compared with: counting."""
    named = result.references.named().items()
    return tag("span", "by counting: " + ", ".join(f"{name} {loss:.3f}" for name, loss in named), class_="noise")


def take_away_table(result: LadderResult) -> Html:
    """Each idea that was left out of GPT and of LLaMA."""
    by_key = {rung.key: rung for rung in result.take_aways}
    worths = {key: result.worth(rung) for key, rung in by_key.items()}
    scale = Scale.of([worth for key, worth in worths.items() if worth and not by_key[key].peeks])  # else all vanish
    names = {key: name for key, (_, name) in FINISHED.items()}
    rows = []
    for idea in TAKE_AWAYS:
        own = [f"{key}-{idea.key}" for key in FINISHED if f"{key}-{idea.key}" in by_key]
        if not own:
            continue
        cells = []
        for key, name in names.items():
            worth, there = worths.get(f"{key}-{idea.key}"), f"{key}-{idea.key}" in own
            label = tag("span", name, class_="model")
            found = [label, bar(worth, scale), finding(worth, WORTH)] if worth else [label, "not measured"]
            cells += [cell("finding", *found)] if there else [cell("finding empty")]
        link = tag("a", idea.title, href=f"#{own[0]}")
        rows.append(tag("tr", cell("name", link), *cells, cell("why", concept(idea.page))))
    return table(("without", *(f"{name}: loss rises by" for name in names.values()), "read more"), rows, "taken")
