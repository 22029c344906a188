"""Figures: the same bytes every time, labels that do not overlap, what is drawn is what was given."""

import io
from itertools import pairwise
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from fathom.report.plot import (
    DARK,
    LIGHT,
    Curve,
    Row,
    Theme,
    bars,
    curves,
    dots,
    loss_curve,
    panels,
    png,
    save,
    smooth,
    spread,
    svg,
)

TRAIN = [(step, 4.0 / step**0.2 + 0.01 * (step % 3)) for step in range(1, 60)]
ROWS = [Row("a", 2.5, 0.1, (2.4, 2.6)), Row("b", 1.5, None), Row("c", -0.1, 0.2, faint=True)]


def drawings(theme: Theme) -> list[Figure]:
    return [
        loss_curve(TRAIN, [(10, 3.0), (50, 2.0)], {"ln V": 4.17}, theme),
        curves([Curve("x", [1], [2.0])], "step", "loss"),
        dots(ROWS, "loss", {"count bigram": 2.0}, theme),
        bars(ROWS, "difference", theme),
    ]


@pytest.mark.parametrize("draw", [png, svg])
@pytest.mark.parametrize("which", [0, 2])
def test_the_same_values_give_the_same_bytes(draw, which: int) -> None:
    assert draw(drawings(LIGHT)[which]) == draw(drawings(LIGHT)[which])


def test_files_are_what_they_are_called(tmp_path: Path) -> None:
    figure = loss_curve(TRAIN, [])
    save(figure, tmp_path / "loss.png")
    save(figure, tmp_path / "loss.svg")
    assert matplotlib.image.imread(tmp_path / "loss.png").shape[2] == 4
    assert (tmp_path / "loss.svg").read_text(encoding="utf-8").rstrip().endswith("</svg>")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["loss.png", "loss.svg"]


def test_the_theme_reaches_the_paper() -> None:
    light, dark = (matplotlib.image.imread(io.BytesIO(png(loss_curve(TRAIN, [], theme=t)))) for t in (LIGHT, DARK))
    assert light[0, 0, :3].mean() > 0.9 > 0.2 > dark[0, 0, :3].mean()


def test_nothing_measured_yet_is_an_empty_plot() -> None:
    assert png(loss_curve([], []))


def test_points_are_where_the_values_are() -> None:
    ax = dots(ROWS, "loss").axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]
    means = [container.lines[0].get_xydata()[0] for container in ax.containers]
    assert np.allclose(means, [(2.5, 0), (1.5, 1), (-0.1, 2)])
    assert np.allclose([patch.get_width() for patch in bars(ROWS, "x").axes[0].patches], [2.5, 1.5, -0.1])


@given(st.lists(st.floats(0, 10), max_size=20).map(sorted))
def test_names_are_spread_apart_below_the_top(heights: list[float]) -> None:
    places = spread(heights, 0.4, 10.0)
    assert all(b - a >= 0.4 - 1e-9 for a, b in pairwise(places))
    assert max(places, default=0) <= 10.0


def test_names_with_room_stay_where_they_are() -> None:
    assert spread([1.0, 2.0, 3.0], 0.5, 10.0) == [1.0, 2.0, 3.0]


def test_smoothing_keeps_a_constant_and_tames_noise() -> None:
    assert np.allclose(smooth([3.0] * 50), 3.0)
    noise = np.random.default_rng(0).normal(size=2000)
    assert np.std(smooth(noise)[100:-100]) < 0.25 * np.std(noise)


def test_smoothing_does_not_follow_the_last_value() -> None:
    assert max(abs(value) for value in smooth([0.0] * 999 + [1.0])[-20:]) < 0.3


def test_a_few_steps_have_whole_numbers() -> None:
    ticks = loss_curve([(step, 4.0 - step) for step in range(1, 5)], []).axes[0].get_xticks()
    assert all(tick == int(tick) for tick in ticks)


def test_smoothing_does_not_lag() -> None:
    """A straight line is its own mean, at every place."""
    assert np.allclose(smooth([4.0 - 0.1 * step for step in range(300)]), [4.0 - 0.1 * step for step in range(300)])


def test_lines_that_end_together_are_named_in_their_order() -> None:
    drawn = [
        Curve("low", [0, 1, 2], [0, 0, 1]),
        Curve("high", [0, 1, 2], [0, 1, 1]),
        Curve("mid", [0, 1, 2], [0, 0.5, 1]),
    ]
    texts = sorted(
        (text.get_position()[1], text.get_text()) for text in curves(drawn, "x", "y", number="").axes[0].texts
    )
    assert [name for _, name in texts] == ["low", "mid", "high"]


def test_panels_draw_every_title() -> None:
    shown = {str(i): [Curve("", [0, 1], [0, i])] for i in range(8)}
    visible = [ax for ax in panels(shown, "x", "y").axes if ax.get_visible()]
    assert [ax.get_title(loc="left") for ax in visible] == [*shown]
    assert all(list(ax.lines[0].get_ydata()) == [0, i] for i, ax in enumerate(visible))


def test_a_ring_is_where_the_other_value_is() -> None:
    ax = dots([Row("a", 0.5, other=0.75)], "x").axes[0]
    assert 0.75 in [line.get_xdata()[0] for line in ax.lines if len(line.get_xdata())]


def test_the_smoothed_line_does_not_dive_at_its_end() -> None:
    """A last value far off moves the end of the line by less than a tenth of that."""
    values = [4.0 - step / 1000 for step in range(1000)]
    ends = [smooth([*values, values[-1] + off])[-1] for off in (0.0, -1.0)]
    assert abs(ends[0] - 3.0) < 0.01 and abs(ends[1] - ends[0]) < 0.1


def test_four_steps_have_four_ticks() -> None:
    ax = loss_curve([(step, 4.0) for step in range(1, 5)], []).axes[0]
    low, high = ax.get_xlim()
    assert [tick for tick in ax.get_xticks() if low <= tick <= high] == [1, 2, 3, 4]
