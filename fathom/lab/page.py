"""A survey as one HTML page with nothing to fetch: for each kind of matrix its spectra, beside what chance would give.

Every number is in the JSON file beside the page. Does not measure.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fathom.adapters.spectrum import control
from fathom.atomic import atomic_write
from fathom.lab import report
from fathom.lab.report import HEADS, INTRUDER_HEADS, MEETING_HEADS, NUMERIC
from fathom.lab.spectra import Measured
from fathom.lab.survey import Section, Survey
from fathom.report import html, plot
from fathom.report.html import Html, tag
from fathom.report.plot import Curve, Row
from fathom.report.theme import Theme

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
