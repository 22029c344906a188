"""Figures: a loss curve, and rows of dots or bars with their uncertainty. The same values always give the same bytes.

Figure objects only: no pyplot, no window, no global state; matplotlib is imported when the first is drawn. Themes are
shared with the pages.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from fathom.files import atomic_write
from fathom.words import signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Theme:
    """Colours as #rrggbb. The `series` are distinguishable with red-green colour blindness."""

    paper: str
    ink: str  # text
    faint: str  # secondary text
    line: str  # rules and grid
    shade: str  # behind code and table heads
    accent: str
    series: tuple[str, ...]


LIGHT = Theme(
    paper="#ffffff",
    ink="#1c2128",
    faint="#5f6975",
    line="#dde2e8",
    shade="#f5f7f9",
    accent="#0b62c4",
    series=("#0b62c4", "#c2570c", "#117a65", "#8e44ad", "#6b7480", "#b0305c"),
)
DARK = Theme(
    paper="#14171c",
    ink="#e4e8ee",
    faint="#9aa4b1",
    line="#323944",
    shade="#1d2229",
    accent="#6cb2ff",
    series=("#6cb2ff", "#f5a15b", "#5ed1b3", "#cf9cf0", "#a5afbc", "#f08bb0"),
)


DPI = 160
DASHES = (0, (4, 3))


@dataclass(frozen=True)
class Curve:
    """A line through points, in the theme's series colour of this number; `raw` is drawn faint, behind the others."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    raw: bool = False


@dataclass(frozen=True)
class Row:
    """One line of a row chart: a value, half the width of its interval (None: unknown), the values it is the mean of,
    and one to compare it with."""

    name: str
    value: float
    error: float | None = None
    parts: Sequence[float] = ()
    faint: bool = False
    other: float | None = None


def axes(width: float, height: float, theme: Theme) -> tuple[Figure, Axes]:
    """An empty figure of this size in inches, in the theme's colours."""
    figure = _blank(width, height, theme)
    ax = figure.add_subplot()
    _dress(ax, theme)
    return figure, ax


def _blank(width: float, height: float, theme: Theme) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor=theme.paper)
    FigureCanvasAgg(figure)
    return figure


def _dress(ax: Axes, theme: Theme) -> None:
    ax.set_facecolor(theme.paper)
    ax.grid(color=theme.line, linewidth=0.7)
    ax.set_axisbelow(True)
    ax.tick_params(colors=theme.faint, length=0, labelsize=9)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.line)


def curves(
    drawn: Sequence[Curve],
    x_label: str,
    y_label: str,
    references: Mapping[str, float] | None = None,
    theme: Theme = LIGHT,
    size: tuple[float, float] = (6.8, 4.2),
    number: str = "  {:.3f}",
) -> Figure:
    """Lines over a common x, each named at its end with its last value, and named horizontal reference lines."""
    figure, ax = axes(*size, theme)
    names = []  # (height at the end, mean height, text, colour)
    for curve in (c for c in drawn if c.x):
        colour = theme.series[curve.colour % len(theme.series)]
        width, alpha = (0.8, 0.3) if curve.raw else (1.9, 1.0)
        dot = "o" if len(curve.x) == 1 else None
        ax.plot(curve.x, curve.y, color=colour, linewidth=width, alpha=alpha, marker=dot, zorder=2 if curve.raw else 3)
        if not curve.raw and np.isfinite(curve.y[-1]):
            names.append((curve.y[-1], float(np.mean(curve.y)), curve.name + number.format(curve.y[-1]), colour))
    for name, level in (references or {}).items():
        ax.axhline(level, color=theme.faint, linewidth=1, linestyle=DASHES, zorder=1)
        names.append((level, level, name + number.format(level), theme.faint))
    if all(float(x).is_integer() for curve in drawn for x in curve.x):  # steps and ranks: no tick at step 1.5
        _whole_ticks(ax, [1, 2, 2.5, 5, 10])
    ax.set_xlabel(x_label, color=theme.faint, fontsize=9)
    ax.set_ylabel(y_label, color=theme.faint, fontsize=9)
    ax.margins(x=0.01)
    _name_ends(ax, names)
    return figure


def _whole_ticks(ax: Axes, steps: Sequence[float], most: int | Literal["auto"] = "auto") -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=most, steps=steps))


def _name_ends(ax: Axes, names: Sequence[tuple[float, float, str, str]]) -> None:
    """Names beside the ends of their lines, from the lowest to the highest; lines that end together by their means."""
    from matplotlib.collections import LineCollection

    low, high = ax.get_ylim()
    names = sorted(names, key=lambda name: (round(name[0] / ((high - low) * 0.002)), *name[1:]))
    places = spread([end for end, *_ in names], (high - low) * 0.048, high)
    at = ax.get_yaxis_transform()
    joints = [((1.0, end), (1.022, place)) for place, (end, *_) in zip(places, names)]
    colours = [colour for *_, colour in names]
    leads = LineCollection(joints, colors=colours, linewidths=0.7, transform=at, clip_on=False)
    ax.add_collection(leads, autolim=False)
    for place, (_, _, text, colour) in zip(places, names):
        ax.text(1.03, place, text, transform=at, color=colour, fontsize=8.5, va="center")
    ax.set_ylim(low, high)


def panels(
    shown: Mapping[str, Sequence[Curve]], x_label: str, y_label: str, theme: Theme = LIGHT, columns: int = 3
) -> Figure:
    """One small plot for each title, all on the same axes."""
    rows = -(-len(shown) // columns)
    figure = _blank(6.8, 0.5 + 1.5 * rows, theme)
    grid = figure.subplots(max(rows, 1), columns, sharex=True, sharey=True, squeeze=False).flat
    for ax, (title, curves) in zip(grid, shown.items()):
        _dress(ax, theme)
        ax.set_title(title, fontsize=9, color=theme.ink, loc="left")
        for curve in curves:
            width, alpha = (0.7, 0.4) if curve.raw else (1.7, 1.0)
            colour = theme.series[curve.colour % len(theme.series)]
            ax.plot(curve.x, curve.y, color=colour, linewidth=width, alpha=alpha)
        ax.margins(x=0.02)
        ax.locator_params(nbins=2)
    for place, ax in enumerate(figure.axes):
        ax.set_visible(place < len(shown))
        ax.tick_params(labelbottom=place + columns >= len(shown))
    figure.supxlabel(x_label, color=theme.faint, fontsize=9)
    figure.supylabel(y_label, color=theme.faint, fontsize=9)
    return figure


def spread(heights: Sequence[float], gap: float, top: float) -> list[float]:
    """Ascending heights moved, as little as need be, to be at least `gap` apart and no higher than `top`."""
    places: list[float] = []
    for height in heights:
        places.append(max(height, places[-1] + gap) if places else height)
    for i in reversed(range(len(places))):
        places[i] = min(places[i], top)
        top = places[i] - gap
    return places


def loss_curve(
    train: Sequence[tuple[float, float]],
    validation: Sequence[tuple[float, float]],
    references: Mapping[str, float] | None = None,
    theme: Theme = LIGHT,
) -> Figure:
    """Loss in nats per token against step: training faint as measured and strong as smoothed, validation, references.

    `train` and `validation` hold (step, loss).
    """
    steps, losses = [step for step, _ in train], [loss for _, loss in train]
    drawn = [
        Curve("train", steps, losses, raw=True),
        Curve("train", steps, smooth(losses)),
        Curve("validation", [step for step, _ in validation], [loss for _, loss in validation], colour=1),
    ]
    figure = curves(drawn, "step", "loss, nats per token", references, theme)
    _whole_ticks(figure.axes[0], [1, 2, 5, 10], 10)
    return figure


def smooth(values: Sequence[float], span: float = 0.02) -> list[float]:
    """The mean over about this fraction of the values, as many before as after each: it does not lag behind them.

    The end, after which there are none, is a straight line through the last values: a shorter mean would follow noise.
    """
    reach = int(span * len(values) / 2)
    sums = np.concatenate(([0.0], np.cumsum(values)))
    places = np.arange(len(values))
    half = np.minimum(reach, np.minimum(places, places[::-1]))  # shorter towards the start, and still even
    means = (sums[places + half + 1] - sums[places - half]) / (2 * half + 1)
    if reach:
        last = places[-(4 * reach + 1) :]
        means[-reach:] = np.polyval(np.polyfit(last, np.asarray(values)[last], 1), places[-reach:])
    smoothed: list[float] = means.tolist()
    return smoothed


def dots(
    rows: Sequence[Row],
    x_label: str,
    references: Mapping[str, float] | None = None,
    theme: Theme = LIGHT,
    number: str = "{:.3f}",
) -> Figure:
    """Rows from top to bottom, each a mean with its interval, the values it is the mean of (small) and the other
    (a ring)."""
    figure, ax = _rows(rows, x_label, theme)
    for y, row in enumerate(rows):
        colour = theme.faint if row.faint else theme.series[0]
        ax.plot(row.parts, [y] * len(row.parts), "o", color=colour, markersize=3, alpha=0.45, markeredgewidth=0)
        ax.errorbar(row.value, y, xerr=row.error, fmt="o", color=colour, markersize=6.5, elinewidth=1.6, capsize=3)
        if row.other is not None:
            ax.plot(row.other, y, "o", color=theme.faint, markersize=6, markerfacecolor=theme.paper, zorder=2)
        ax.annotate(
            number.format(row.value),
            (row.value, y),
            (0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=colour,
        )
    for name, level in (references or {}).items():
        ax.axvline(level, color=theme.faint, linewidth=1, linestyle=DASHES, zorder=1)
        at = ax.get_xaxis_transform()
        ax.text(level, 1.01, f"{name} {number.format(level)}", transform=at, ha="center", fontsize=8, color=theme.faint)
    return figure


def bars(
    rows: Sequence[Row], x_label: str, theme: Theme = LIGHT, number: Callable[[float], str] | None = None
) -> Figure:
    """Bars from zero, one row each, with intervals; faint rows are those that say nothing."""
    figure, ax = _rows(rows, x_label, theme)
    for y, row in enumerate(rows):
        colour = theme.series[4] if row.faint else theme.series[0] if row.value >= 0 else theme.series[1]
        ax.barh(y, row.value, height=0.62, color=colour, alpha=0.4 if row.faint else 0.9)
        ax.errorbar(row.value, y, xerr=row.error, fmt="none", ecolor=theme.ink, elinewidth=1.2, capsize=3)
        reach = abs(row.value) + (row.error or 0)
        side = 1 if row.value >= 0 else -1
        ax.annotate(
            (number or signed)(row.value),
            (side * reach, y),
            (6 * side, 0),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            fontsize=8.5,
            color=theme.faint if row.faint else theme.ink,
        )
    ax.axvline(0, color=theme.faint, linewidth=1)
    ax.margins(x=0.14)
    return figure


def _rows(rows: Sequence[Row], x_label: str, theme: Theme) -> tuple[Figure, Axes]:
    figure, ax = axes(6.8, 0.9 + 0.4 * len(rows), theme)
    ax.set_yticks(range(len(rows)), [row.name for row in rows], color=theme.ink, fontsize=9.5)
    ax.set_ylim(len(rows) - 0.4, -0.7)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(x_label, color=theme.faint, fontsize=9)
    return figure, ax


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    return _drawn(figure, "png", {"Software": None})


def svg(figure: Figure) -> bytes:
    """The figure as an SVG file; letters are paths, so that it looks the same everywhere."""
    return _drawn(figure, "svg", {"Date": None, "Creator": None})


def _drawn(figure: Figure, kind: str, metadata: dict[str, None]) -> bytes:
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "fathom", "svg.fonttype": "path"}):
        figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write a .png or .svg, whole or not at all."""
    drawn = {".png": png, ".svg": svg}[path.suffix](figure)
    with atomic_write(path) as temporary:
        temporary.write_bytes(drawn)
