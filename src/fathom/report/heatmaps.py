"""Tables of numbers as colours, side by side: attention patterns, activations.

Numbers in [0, 1] are viridis, others red and blue about 0; masked cells (not finite) are hatched.
"""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from fathom.report.plot import LIGHT, Theme, png

COLUMNS, WIDTH = 4, 7.6  # figures side by side at most, and inches of them together
LABELLED = 24  # tokens that still have room for their texts
MOST = 64  # tables drawn at most


class Drawing(Figure):
    """A figure that notebooks show."""

    def _repr_png_(self) -> bytes:
        return png(self)


def heatmaps(
    tables: NDArray[np.floating],
    names: Sequence[str],
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    title: str = "",
    theme: Theme = LIGHT,
) -> Drawing:
    """Tables (n, rows, columns) as heatmaps, each with its name. rows, columns: labels, left out where too many."""
    tables = tables[:MOST]
    across = min(COLUMNS, len(tables))
    down = math.ceil(len(tables) / across)
    tall = min(max(tables.shape[1] / max(tables.shape[2], 1), 0.3), 1.6)
    height = down * (WIDTH / across * tall + 0.35) + 0.5
    figure = Drawing(figsize=(WIDTH, height), layout="constrained", facecolor=theme.paper)
    FigureCanvasAgg(figure)
    finite = tables[np.isfinite(tables)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    share = low >= 0 and high <= 1
    limits = (0.0, 1.0) if share else (-max(-low, high, 1e-30), max(-low, high, 1e-30))
    image, drawn = None, []
    for n, (table, name) in enumerate(zip(tables, names)):
        ax = figure.add_subplot(down, across, n + 1)
        ax.add_patch(hatched(ax, theme))
        shown = np.ma.masked_invalid(table)
        image = ax.imshow(
            shown,
            cmap="viridis" if share else "RdBu_r",
            vmin=limits[0],
            vmax=limits[1],
            aspect="auto",
            interpolation="nearest",
            zorder=1,
        )
        dress(ax, name, rows if n % across == 0 else (), columns if n >= len(tables) - across else (), theme)
        drawn.append(ax)
    if title:
        figure.suptitle(title, color=theme.ink, fontsize=11)
    if image is not None:
        bar = figure.colorbar(image, ax=drawn, fraction=0.03, pad=0.02)
        bar.ax.tick_params(colors=theme.faint, labelsize=8, length=0)
        bar.outline.set_visible(False)
    return figure


def hatched(ax: Axes, theme: Theme) -> Rectangle:
    """What lies behind masked cells."""
    return Rectangle(
        (0, 0),
        1,
        1,
        transform=ax.transAxes,
        hatch="////",
        facecolor=theme.shade,
        edgecolor=theme.line,
        linewidth=0,
        zorder=0,
    )


def dress(ax: Axes, name: str, rows: Sequence[str], columns: Sequence[str], theme: Theme) -> None:
    """A heatmap's name, labels and frame."""
    ax.set_title(name, fontsize=9, color=theme.faint, pad=4)
    for axis, labels in ((ax.yaxis, rows), (ax.xaxis, columns)):
        shown = list(labels) if len(labels) <= LABELLED else []
        axis.set_ticks(range(len(shown)), shown)
    ax.tick_params(axis="x", rotation=90)
    ax.tick_params(colors=theme.faint, length=0, labelsize=7)
    for spine in ax.spines.values():
        spine.set_color(theme.line)
