"""The results of the laboratory as HTML pages with nothing to fetch: a survey of spectra, and loss against rank.

Every number is in the JSON file beside the page, and the page says where. Does not measure.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fathom.adapters.svd import random_spectrum
from fathom.fields import plain
from fathom.files import replacing
from fathom.lab import report
from fathom.lab.result import Point, RankResult
from fathom.lab.spectra import Spectrum
from fathom.lab.survey import Section, Survey
from fathom.report import html, plot
from fathom.report.html import Html, tag
from fathom.report.plot import Curve, Row, Theme

METHOD = (
    "A model was fine-tuned in full on a text. The change of each matrix, ΔW, was then replaced by its best "
    "approximation of rank r (Eckart & Young 1936), and the loss measured again. The weights were cut in the same way, "
    "and LoRA was trained at each rank on the same data, in the same order, for as many steps."
)
MEANINGS = (
    METHOD,
    "Loss is the mean of -ln p over the same validation tokens, in nats. Kept is the part of the full fine-tune's "
    "improvement: 0% is the model before, 100% after; more than 100% is better than the full fine-tune.",
    "A rank larger than a matrix is its full rank. Norms and biases are vectors and have no rank: in all cuts they "
    "keep the values of the full fine-tune, so that rank 0 is what they alone bring. LoRA leaves them as they were. "
    "It is put on every matrix that multiplies; where embedding and unembedding are one, each gets an adapter.",
    "Random directions: the part of ΔW along r random directions of its smaller side, a cut that ignores ΔW.",
    "Recommended ranks: all terms of all changes in the order of energy per adapter parameter, as many as keep the "
    "requested part of the improvement, found by bisection. They come from a full fine-tune, which LoRA is meant to "
    "save: use them for the next run of the same kind.",
    "LoRA is scaled by alpha / sqrt(rank), so that one learning rate serves all ranks (Kalajdzievski 2023). That rate "
    "and the full fine-tune's were chosen on stories260K and tiny Shakespeare, from about five each; another model "
    "may need others: --lr and --lora-lr.",
)
LOSSES = (
    "Validation loss against rank. ΔW cut: its strongest directions alone. LoRA: trained at that rank. Random "
    "directions: ΔW along as many random ones. Dashed: the model before and after the full fine-tune."
)
WEIGHTS = "The weights themselves, W + ΔW, cut to rank r; for comparison ΔW cut to rank r, as above."
RECOMMENDED = "The rank recommended for each role, mean over its matrices; the small dots are the matrices."
CUMULATIVE = (
    "The part of the energy (squared singular values) that the strongest directions hold, for each role: thin lines "
    "are its matrices, the thick line is their mean. Grey: a random matrix of the same shape."
)
RANKS = (
    "The part of all directions that holds 90% of the energy: dots are the mean of each role, small dots its "
    "matrices, rings random matrices of the same shapes."
)
INTRUDERS = (
    "An intruder is one of the strongest directions of W + ΔW whose cosine to every direction of W is below 0.5 "
    "(Shuttleworth et al. 2024): the change did not bend an existing direction but added a new one."
)
ANGLES = (
    "Principal angles between the spans of the strongest directions of both changes: 0° is a direction they share, at "
    "90° they have nothing in common. Overlap is the mean squared cosine (Hu et al. 2021, eq. 4); by chance: what as "
    "many random directions have on average."
)
GRID = [i / 100 for i in range(101)]


def write_report(path: Path, page: str, values: Any) -> None:
    """The page, and its numbers as .json beside it, each whole or not at all."""
    for file, text in ((path, page), (path.with_suffix(".json"), json.dumps(values, indent=1, ensure_ascii=False))):
        with replacing(file) as out:
            out.write(text.encode("utf-8"))


def small(text: str) -> Html:
    return tag("p", tag("small", text))


def survey_page(survey: Survey, numbers: str) -> str:
    """`numbers`: the name of the JSON file beside it."""
    path = Path(survey.path)
    title = f"Spectra of {(path.parent.parent if path.parent.name == 'checkpoints' else path).name}"
    last = survey.sections[-1]  # a change, where there is one, is what was asked for
    shown = html.figure(lambda theme: ranks_figure(last.measured, theme), RANKS)
    parts = [section_part(i, section, section is not last, numbers) for i, section in enumerate(survey.sections)]
    if survey.meetings:
        table = html.table(*report.comparisons_table(survey))
        parts.append(html.folded("How the two changes compare", tag("p", ANGLES), table))
    return html.page(
        title,
        html.found(title, report.summary(last), shown),
        *parts,
        html.folded(
            "What the columns mean",
            *(tag("p", sentence) for sentence in (*report.DEFINITIONS, *report.sampling_notes(survey))),
        ),
        small(f"Every number of this page, and all singular values, are in {numbers} beside it."),
    )


def section_part(place: int, section: Section, with_ranks: bool, numbers: str) -> Html:
    """The spectra of the weights, or of one change; without the figure of ranks where the page begins with it."""
    measured = section.measured
    parts = [
        *([tag("p", report.summary(section))] if with_ranks else []),
        html.figure(lambda theme: cumulative_figure(measured, theme), CUMULATIVE),
        *([html.figure(lambda theme: ranks_figure(measured, theme), RANKS)] if with_ranks else []),
        html.table(*report.spectra_table(section)),
        small(f"In {numbers}: sections[{place}].measured."),
    ]
    if section.intruders:
        parts += [tag("h3", "Intruders"), tag("p", INTRUDERS), html.table(*report.intruders_table(section))]
    return html.folded(section.title[:1].upper() + section.title[1:], *parts)


def cumulative_figure(measured: Sequence[Spectrum], theme: Theme) -> Figure:
    """Energy against directions, as parts of the whole: a plot for each role."""
    shown = {}
    for name, ms in report.by_role(measured).items():
        energies = [cumulative_energy(m) for m in ms if m.norm > 0]
        if energies:
            lines = [Curve("", GRID, energy, raw=True) for energy in energies if len(energies) > 1]
            mean = [report.mean(parts) for parts in zip(*energies)]
            shown[name] = [*random_curve(ms[0]), *lines, Curve("", GRID, mean)]
    return plot.panels(shown, "part of the directions", "part of the energy", theme)


def random_curve(m: Spectrum) -> list[Curve]:
    """The same of a random matrix, where all singular values of this one are known and it is no product."""
    if m.missed is not None or m.max_rank != min(m.shape):
        return []
    s = random_spectrum((m.shape[0], m.shape[1]), 1.0)
    return [Curve("", GRID, energy_on_grid(s.tolist(), len(s), 1.0), colour=4)]


def cumulative_energy(m: Spectrum) -> list[float]:
    return energy_on_grid(m.values, m.max_rank, m.norm**2)


def energy_on_grid(values: Sequence[float], full: int, energy: float) -> list[float]:
    """The part of the energy that each part of all directions holds; beyond the known values, that of the last."""
    sums = np.cumsum([0.0, *(value**2 / energy for value in values)])
    parts: list[float] = np.interp([part * full for part in GRID], range(len(sums)), sums).tolist()
    return parts


def ranks_figure(measured: Sequence[Spectrum], theme: Theme) -> Figure:
    """Rank at 90% of the energy, role by role."""
    rows = []
    for name, ms in report.by_role(measured).items():
        own, random = report.shares(ms)
        if own:
            rows.append(Row(name, report.mean(own), parts=own, other=report.mean(random)))
    figure = plot.dots(rows, "part of all directions that holds 90% of the energy", None, theme, "{:.0%}")
    figure.axes[0].set_xlim(0, 1.02)
    figure.axes[0].xaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


def rank_page(result: RankResult, numbers: str) -> str:
    """`numbers`: the name of the JSON file beside it."""
    title = f"Loss against rank: {Path(result.model).name} on {Path(result.text.name).name}"
    cut = ("ΔW cut", result.change)
    drawn = [cut, ("LoRA", result.lora), ("random directions", result.chance)]
    weights = [cut, ("", ()), ("", ()), ("W cut", result.weight)]  # the colour is the place in the list
    first, *others = report.conclusions(result)
    return html.page(
        title,
        html.found(title, first, html.figure(lambda theme: losses_figure(result, drawn, theme), LOSSES)),
        *(tag("p", sentence) for sentence in others),
        html.folded(
            "Rank by rank",
            facts(result),
            html.table(*report.rank_table(result)),
            small(f"In {numbers}: base, tuned, change[], weight[], chance[], lora[], in the order of the ranks."),
        ),
        html.folded(
            "The weights cut in the same way",
            html.figure(lambda theme: losses_figure(result, weights, theme), WEIGHTS),
        ),
        html.folded(
            "Matrix by matrix",
            html.figure(lambda theme: recommended_figure(result, theme), RECOMMENDED),
            html.table(*report.matrices_table(result)),
            small(f"In {numbers}: matrices[], recommended."),
            tag("p", report.energy_and_loss(result)),
        ),
        provenance(result),
    )


def facts(result: RankResult) -> Html:
    values = {
        "loss before": f"{result.base:.4f}",
        "loss after the full fine-tune": f"{result.tuned:.4f}",
        "steps of every training": f"{result.steps:,}",
        "trainings": f"{len(result.lora) + 2}",
        "parameters": f"{result.parameters:,}",
        "seconds in all": f"{result.seconds:.0f}",
    }
    return tag("ul", *(tag("li", tag("b", value), tag("span", name)) for name, value in values.items()), class_="facts")


def losses_figure(result: RankResult, drawn: Sequence[tuple[str, Sequence[Point]]], theme: Theme) -> Figure:
    """Losses over evenly spaced ranks, as in the table: most that happens, happens at small ones."""
    ranks = [point.rank for point in result.change]
    lines = [
        Curve(name, [ranks.index(point.rank) for point in points], [point.loss for point in points], colour=i)
        for i, (name, points) in enumerate(drawn)
    ]
    references = {"before": result.base, "full fine-tune": result.tuned}
    figure = plot.curves(lines, "rank", "validation loss, nats per token", references, theme)
    figure.axes[0].set_xticks(range(len(ranks)), [str(rank) for rank in ranks])
    return figure


def recommended_figure(result: RankResult, theme: Theme) -> Figure:
    roles: dict[str, list[float]] = {}
    for matrix in result.matrices:
        roles.setdefault(report.role(matrix.name), []).append(matrix.rank)
    rows = [Row(name, report.mean(ranks), parts=ranks) for name, ranks in roles.items()]
    figure = plot.dots(rows, "recommended rank", None, theme, "{:.1f}")
    figure.axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def provenance(result: RankResult) -> Html:
    """What the words mean, and where the numbers come from."""
    text, unadapted = result.text, [m.name for m in result.matrices if not m.adapted]
    return html.folded(
        "What the numbers mean, and where they come from",
        *(tag("p", meaning) for meaning in MEANINGS),
        *([tag("p", f"LoRA was not put on {', '.join(unadapted)}.")] if unadapted else []),
        tag(
            "p",
            f"Data {text.name} ({text.kind}), sha256 {text.fingerprint}: {text.n_train:,} tokens to train on, "
            f"{text.n_val:,} to validate on, of which every loss here uses the same {text.rows} evenly spaced rows. "
            f"Model {result.model}, trained on {result.machine}.",
        ),
        tag("details", tag("summary", "Settings"), html.code(json.dumps(plain(result.options), indent=1) + "\n")),
        id="provenance",
    )
