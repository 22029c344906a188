"""The chart of a ladder: validation loss of every rung while it learns, from step 0, each curve named at its end."""

from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from fathom.experiments.result import LadderResult
from fathom.report import plot
from fathom.report.plot import DASHES, Theme

SIZE = (4.7, 4.7)  # inches; a phone shows it at about two thirds
FONT, GAP = 9, 0.047  # points; of the height, between two names
RANGE = {False: (0.78, 0.0), True: (1.0, 0.25)}  # of the colour map, from the bottom rung to the top: light, dark


def colours(theme: Theme, count: int) -> list[str]:
    """One colour for each rung, from pale to strong: no colour is used twice."""
    first, last = RANGE[theme == plot.DARK]
    where = [first + (last - first) * place / max(count - 1, 1) for place in range(count)]
    if theme == plot.DARK:
        where = where[::-1]
    return [to_hex(colormaps["viridis"](place)) for place in where]


def learning(result: LadderResult, theme: Theme) -> Figure:
    """Validation loss, nats per token, against the step, of the first seed."""
    figure, ax = plot.axes(*SIZE, theme)
    shown = [(rung, run) for rung in result.ladder for run in result.runs(rung.key) if run.seed == result.options.seed]
    names = [(result.references.bigram, f"count bigram {result.references.bigram:.3f}", theme.faint)]
    for (rung, run), colour in zip(shown, colours(theme, len(shown))):
        ax.plot(run.steps, run.losses, color=colour, linewidth=1.8)
        names.append((run.loss, f"{rung.title.split(' (')[0]} {run.loss:.3f}", colour))
    for level in (result.references.unigram, result.references.bigram):
        ax.axhline(level, color=theme.faint, linewidth=1, linestyle=DASHES, zorder=1)
    unigram = result.references.unigram
    ax.text(0.98, unigram, f"unigram {unigram:.3f}", transform=ax.get_yaxis_transform(), color=theme.faint,
            fontsize=FONT, ha="right", va="bottom")  # fmt: skip
    ax.set_xlabel("step", color=theme.faint, fontsize=FONT)
    ax.set_ylabel("validation loss, nats per token", color=theme.faint, fontsize=FONT)
    ax.set_xlim(0, max(result.steps, 1))
    low, high = ax.get_ylim()
    names.sort(key=lambda name: name[0])
    places = plot.spread([height for height, _, _ in names], (high - low) * GAP, high)
    for place, (height, name, colour) in zip(places, names):
        ax.annotate(name, (1.0, height), (1.06, place), xycoords=ax.get_yaxis_transform(),
                    textcoords=ax.get_yaxis_transform(), color=colour, fontsize=FONT, va="center",
                    arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0,
                                "relpos": (0, 0.5)})  # fmt: skip
    ax.set_ylim(low, high)
    return figure
