"""The loss as SVG: values are where the axes say, marks are drawn where they are due, and many points become few."""

import re
from xml.etree import ElementTree

import pytest

from fathom.report.loss_chart import BUCKETS, Frame, Loss, envelope, loss_chart, places, ranges, tick, ticks

TRAIN = [(step, 4.0 - 0.02 * step) for step in range(1, 101)]
VALIDATION = [(step, 3.5 + abs(step - 40) / 50) for step in range(20, 101, 20)]


def svgs(loss: Loss) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(f"<div>{loss_chart(loss)}</div>"))


def test_the_axes_tell_the_values_of_the_line() -> None:
    """The value of each dot, read off the axis by its ticks, is the one in its tooltip."""
    for svg in svgs(Loss(TRAIN, VALIDATION)):
        texts = [(text.text or "", float(text.get("x", 0)), float(text.get("y", 0))) for text in svg.iter("text")]
        ups = sorted((float(words), y - 4) for words, x, y in texts if x == 36)
        (low, y_low), (high, y_high) = ups[0], ups[-1]
        x_0, x_100 = (x for words, x, y in texts if words in ("0", "100") and x > 36)
        for dot, (step, value) in zip(svg.iter("circle"), VALIDATION, strict=True):
            x, y = x_0 + step / 100 * (x_100 - x_0), y_low + (value - low) / (high - low) * (y_high - y_low)
            assert (float(dot.get("cx", 0)), float(dot.get("cy", 0))) == pytest.approx((x, y), abs=0.2)
            assert "".join(dot.itertext()) == f"validation loss {value:.4f} at step {step}"


def test_best_and_overfitting_are_marked() -> None:
    loss = Loss(TRAIN, VALIDATION, best=(40.0, 3.5), best_words="best 3.500 at step 40", overfits=40.0)
    for svg in svgs(loss):
        words = [text.text for text in svg.iter("text")]
        assert "best 3.500 at step 40" in words and "overfitting" in words
        (ring,) = [circle for circle in svg.iter("circle") if circle.get("class") == "ring"]
        (shade,) = svg.iter("rect")
        assert float(ring.get("cx", 0)) == float(shade.get("x", 0))
    assert "overfitting" not in loss_chart(Loss(TRAIN, VALIDATION)) and "ring" not in loss_chart(
        Loss(TRAIN, VALIDATION)
    )


def test_guessing_is_drawn_where_the_losses_reach_it() -> None:
    assert "reference" in loss_chart(Loss(TRAIN, VALIDATION, guessing=4.1))
    assert "reference" not in loss_chart(Loss(TRAIN, VALIDATION, guessing=40.0))


def test_names_do_not_collide() -> None:
    train = [(step, 2.0) for step in range(50)]
    wide, _ = svgs(Loss(train, [(49, 2.0)], guessing=2.001))
    heights = sorted(float(t.get("y", 0)) for t in wide.iter("text") if re.match("train|validation", t.text or ""))
    assert heights[1] - heights[0] > 12


def test_nothing_measured_is_nothing_drawn_and_one_value_is_a_drawing() -> None:
    assert loss_chart(Loss([], [])) == ""
    for loss in (Loss([(1, 2.0)], []), Loss([], [(0, 2.0)]), Loss([(1, 0.0), (2, 0.0)], [])):
        assert "nan" not in loss_chart(loss) and len(svgs(loss)) == 2


def test_many_points_keep_their_extremes() -> None:
    points = [(step, float(step % 7)) for step in range(10_000)] + [(10_000, 99.0)]
    drawn = envelope(points)
    assert len(drawn) <= 2 * BUCKETS and (10_000, 99.0) in drawn
    assert [step for step, _ in drawn] == sorted(step for step, _ in drawn)


def test_ticks_are_round_numbers() -> None:
    assert tick((0, 500), 6) == 100 and tick((1.9, 4.2), 5) == 0.5 and places(0.5) == 1 and places(20) == 0
    assert ticks((1.9, 4.2), 0.5) == [2.0, 2.5, 3.0, 3.5, 4.0]
    frame = Frame(960, 350, 28, 120, *ranges(Loss(TRAIN, VALIDATION)))
    assert frame.x(frame.x_range[1]) == frame.end and frame.y(frame.y_range[0]) == frame.floor
