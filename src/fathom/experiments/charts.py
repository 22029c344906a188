"""The chart of a ladder: validation loss of every rung while it learns, from step 0, each curve named at its end."""

from dataclasses import replace

from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from fathom.experiments.result import LadderResult
from fathom.report import plot
from fathom.report.plot import DARK, Curve, Theme

SIZE = (5.6, 4.8)  # inches
LIGHT_RANGE, DARK_RANGE = (
    (0.6, 0.0),
    (0.48, 1.0),
)  # of the colour map, from the bottom rung to the top, readable as text


def colours(theme: Theme, count: int) -> tuple[str, ...]:
    """One colour for each rung, from pale to strong: no colour is used twice."""
    first, last = DARK_RANGE if theme == DARK else LIGHT_RANGE
    places = [first + (last - first) * place / max(count - 1, 1) for place in range(count)]
    return tuple(to_hex(colormaps["viridis"](place)) for place in places)


def learning(result: LadderResult, theme: Theme) -> Figure:
    """Validation loss, nats per token, against the step, of the first seed."""
    drawn = [
        Curve(rung.title.split(" (")[0], run.steps, run.losses, colour=place)
        for place, rung in enumerate([*result.ladder, *result.beside])
        for run in result.runs(rung.key)
        if run.seed == result.options.seed
    ]
    references = result.references.named()
    del references["ln V"]  # where every curve begins
    own = replace(theme, series=colours(theme, len(result.ladder) + len(result.beside)))
    return plot.curves(drawn, "step", "validation loss, nats per token", references, own, SIZE)
