"""A survey as one HTML page with nothing to fetch: for each kind of matrix its spectra, beside what chance would give.

Every number is in the JSON file beside the page. Does not measure.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fathom.adapters.svd import control
from fathom.fields import plain
from fathom.files import atomic_write
from fathom.lab import report
from fathom.lab.report import CHANGE_HEADS, HEADS, INTRUDER_HEADS, MEETING_HEADS, NUMERIC, RANK_HEADS
from fathom.lab.result import Point, RankResult
from fathom.lab.spectra import Measured
from fathom.lab.survey import Section, Survey
from fathom.report import html, plot
from fathom.report.html import Html, tag
from fathom.report.plot import Curve, Row, Theme

# Loss versus rank as one HTML page: what a fine-tune changed, cut at every rank, and LoRA trained at every rank.
#
# Every number is in the JSON file beside the page, and the page says where. Does not train.

LEAD = (
    "A model was fine-tuned in full on a text it did not know. The change of each matrix, ΔW, was then replaced by its "
    "best approximation of rank r (Eckart & Young 1936), and the loss measured again: so much of the fine-tune fits "
    "into r directions. The weights themselves were cut in the same way, and LoRA was trained at each rank on the same "
    "data, in the same order, for as many steps."
)
MEANINGS = (
    "Loss is the mean of -ln p over the same validation tokens, in nats. Kept is the part of the full fine-tune's "
    "improvement: 0 % is the model before, 100 % after; more than 100 % is better than the full fine-tune.",
    "A rank larger than a matrix is its full rank. Norms and biases are vectors and have no rank: in all cuts they "
    "stay as the full fine-tune made them, so that rank 0 is what they alone bring. LoRA leaves them as they were. "
    "It is put on every matrix that multiplies; where embedding and unembedding are one, each gets an adapter.",
    "Random directions: the part of ΔW along r random directions of its smaller side. A cut that does not look at ΔW.",
    "Recommended ranks: all terms of all changes in the order of energy per number that an adapter pays for them, as "
    "many as keep the wanted part of the improvement, found by halving. They are for this text; they are read off a "
    "full fine-tune, which is what LoRA is meant to save: use them for the next run of the same kind.",
    "LoRA is scaled by alpha / sqrt(rank), so that one learning rate serves all ranks (Kalajdzievski 2023). That rate "
    "and the full fine-tune's were chosen on runs of this very kind (stories260K on tiny Shakespeare), from about five "
    "each; on another model both may be wrong: --lr and --lora-lr.",
)


def rank_page(result: RankResult, numbers: str) -> str:
    """The whole page. `numbers`: the name of the JSON file beside it."""
    title = f"Loss against rank: {Path(result.model).name} on {Path(result.text.name).name}"
    return html.page(
        title,
        tag("h1", title),
        tag("p", LEAD, class_="lead"),
        facts(result),
        tag("ul", *(tag("li", sentence) for sentence in report.conclusions(result))),
        html.figure(lambda theme: losses(result, theme), LOSSES),
        html.figure(lambda theme: weights(result, theme), WEIGHTS),
        html.table(RANK_HEADS, report.rank_rows(result), range(len(RANK_HEADS))),
        source(numbers, "base, tuned, change[], weight[], chance[], lora[], in the order of the ranks"),
        tag("h2", "Matrix by matrix"),
        html.figure(lambda theme: recommended(result, theme), RECOMMENDED),
        html.table(CHANGE_HEADS, report.change_rows(result), range(1, len(CHANGE_HEADS))),
        source(numbers, "matrices[], recommended"),
        *provenance(result),
    )


def facts(result: RankResult) -> Html:
    shown = {
        "loss before": f"{result.base:.4f}",
        "loss after the full fine-tune": f"{result.tuned:.4f}",
        "steps of every training": f"{result.steps:,}",
        "trainings": f"{len(result.lora) + 2}",
        "parameters": f"{result.parameters:,}",
        "seconds in all": f"{result.seconds:.0f}",
    }
    return tag("ul", *(tag("li", tag("b", value), tag("span", name)) for name, value in shown.items()), class_="facts")


def source(numbers: str, fields: str) -> Html:
    return tag("p", tag("small", f"In {numbers}: {fields}."))


LOSSES = (
    "Validation loss against rank. Blue: ΔW cut to its strongest directions. Orange: LoRA trained at that rank. Green: "
    "ΔW along random directions. Dashed: the model before, and after the full fine-tune."
)
WEIGHTS = "The same axis for the weights themselves: W + ΔW cut to rank r, beside ΔW cut to rank r."
RECOMMENDED = "The rank recommended for each role: mean over its matrices, small dots are the matrices."


def losses(result: RankResult, theme: Theme) -> Figure:
    drawn = [("ΔW cut", result.change), ("LoRA", result.lora), ("random directions", result.chance)]
    return against_rank(result, drawn, theme)


def weights(result: RankResult, theme: Theme) -> Figure:
    return against_rank(result, [("ΔW cut", result.change), ("", ()), ("", ()), ("W cut", result.weight)], theme)


def against_rank(result: RankResult, drawn: Sequence[tuple[str, Sequence[Point]]], theme: Theme) -> Figure:
    """Losses over ranks, which stand side by side as in the table: most that happens, happens at small ones."""
    ranks = [point.rank for point in result.change]
    lines = [
        Curve(name, [ranks.index(point.rank) for point in points], [point.loss for point in points], colour=i)
        for i, (name, points) in enumerate(drawn)
    ]
    references = {"before": result.base, "full fine-tune": result.tuned}
    figure = plot.curves(lines, "rank", "validation loss, nats per token", references, theme)
    figure.axes[0].set_xticks(range(len(ranks)), [str(rank) for rank in ranks])
    return figure


def recommended(result: RankResult, theme: Theme) -> Figure:
    roles: dict[str, list[float]] = {}
    for matrix in result.matrices:
        roles.setdefault(report.role(matrix.name), []).append(matrix.rank)
    rows = [Row(name, report.mean(ranks), parts=ranks) for name, ranks in roles.items()]
    return plot.dots(rows, "recommended rank", None, theme)


def provenance(result: RankResult) -> list[Html]:
    """What the words mean, and where the numbers come from."""
    text = result.text
    unadapted = [m.name for m in result.matrices if not m.adapted]
    said = (
        f"Data {text.name} ({text.kind}), sha256 {text.fingerprint}: {text.n_train:,} tokens to learn, {text.n_val:,} "
        f"to validate on, of which every loss here uses the same {text.rows} evenly spread rows. Model {result.model}, "
        f"trained on {result.machine}."
    )
    return [
        tag("h2", "What the numbers mean, and where they come from", id="provenance"),
        *(tag("p", meaning) for meaning in MEANINGS),
        *([tag("p", f"LoRA was not put on {', '.join(unadapted)}.")] if unadapted else []),
        tag("p", said),
        tag("details", tag("summary", "Settings"), html.code(json.dumps(plain(result.options), indent=1) + "\n")),
    ]


INTRUDERS = (
    "An intruder is one of the strongest directions of W + ΔW whose cosine to every direction of W is below 0.5 "
    "(Shuttleworth et al. 2024): the change did not bend what was there but put something new beside it."
)
ANGLES = (
    "Principal angles between the spans of the strongest directions of both changes: 0° is a direction they share, at "
    "90° they have nothing in common. Overlap is the mean squared cosine (Hu et al. 2021, eq. 4); by chance: what as "
    "many random directions have on average."
)


def write_page(path: Path, page: str) -> None:
    """The page, whole or as it was before."""
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def survey_page(survey: Survey, numbers: str) -> str:
    """The whole page. `numbers`: the name of the JSON file beside it."""
    title = f"Spectra of {Path(survey.path).name}"
    parts = [part for i, section in enumerate(survey.sections) for part in section_parts(i, section, numbers)]
    return html.page(
        title,
        tag("h1", title),
        tag("p", report.ENERGY, class_="lead"),
        *parts,
        *meeting_parts(survey),
        *(tag("p", sentence) for sentence in report.sampled(survey)),
        tag("p", tag("small", f"Every number of this page, and all singular values, are in {numbers} beside it.")),
    )


def section_parts(place: int, section: Section, numbers: str) -> list[Html]:
    """One kind of matrix: sentence, figures, table."""
    measured = section.measured
    made = [
        tag("h2", section.title[:1].upper() + section.title[1:]),
        tag("p", report.said_of(section)),
        html.figure(lambda theme: held(measured, theme), HELD),
        html.figure(lambda theme: ranks(measured, theme), RANKS),
        html.table(HEADS, [report.row(m) for m in measured], NUMERIC),
        tag("p", tag("small", f"In {numbers}: sections[{place}].measured.")),
    ]
    if section.intruders:
        rows = [report.intruder_row(e) for e in section.intruders]
        made += [tag("h3", "Intruders"), tag("p", INTRUDERS), html.table(INTRUDER_HEADS, rows, (1, 2, 3))]
    return made


def meeting_parts(survey: Survey) -> list[Html]:
    if not survey.meetings:
        return []
    rows = [report.met(meeting) for meeting in survey.meetings]
    return [tag("h2", "How the two changes lie"), tag("p", ANGLES), html.table(MEETING_HEADS, rows, range(1, 8))]


HELD = (
    "The part of the energy that the strongest directions hold, mean over the matrices of each role. The lower a line, "
    "the more even the spectrum. Grey: a random matrix of the same shape as the first."
)
RANKS = (
    "The part of all directions that holds 90 % of the energy. Dots: the mean of each role, small ones its matrices. "
    "Grey rows: random matrices of the same shapes."
)
LINES = 5  # of figures; more cannot be told apart
GRID = [i / 100 for i in range(101)]


def held(measured: Sequence[Measured], theme: Theme) -> Figure:
    """Energy against directions, as parts."""
    roles = [(name, ms) for name, ms in report.by_role(measured).items() if all(m.norm > 0 for m in ms)]
    drawn = [
        Curve(name, GRID, [report.mean(each) for each in zip(*map(energies, ms))], colour=i + (i > 3))
        for i, (name, ms) in enumerate(roles[:LINES])
    ]
    if measured and (first := measured[0]).missed is None and report.most(first) == min(first.shape):
        s = control((first.shape[0], first.shape[1]), 1.0)
        drawn.append(Curve("random", GRID, energies_of(s.tolist(), len(s), 1.0), colour=4))
    return plot.curves(drawn, "part of the directions", "part of the energy", None, theme, number="")


def energies(m: Measured) -> list[float]:
    return energies_of(m.values, report.most(m), m.norm**2)


def energies_of(values: Sequence[float], full: int, energy: float) -> list[float]:
    """The part of the energy that each part of all directions holds; what is not known is what was last known."""
    sums = np.cumsum([0.0, *(value**2 / energy for value in values)])
    held: list[float] = np.interp([part * full for part in GRID], range(len(sums)), sums).tolist()
    return held


def ranks(measured: Sequence[Measured], theme: Theme) -> Figure:
    """Rank at 90 % of the energy, role by role."""
    rows = []
    for name, ms in report.by_role(measured).items():
        known = [m for m in ms if m.numbers.rank_90 is not None and m.chance.rank_90 is not None]
        own = [(m.numbers.rank_90 or 0) / report.most(m) for m in known]
        random = [(m.chance.rank_90 or 0) / report.most(m) for m in known]
        if known:
            rows += [Row(name, report.mean(own), parts=own), Row("random", report.mean(random), faint=True)]
    figure = plot.dots(rows, "part of all directions that holds 90 % of the energy", None, theme)
    figure.axes[0].set_xlim(0, 1.02)
    return figure
