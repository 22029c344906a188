"""Loss against step as SVG inside a page: it takes the page's colours, light or dark, and phones get a drawing of their
own. Written as text in milliseconds, so that a page can be renewed while a model trains.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fathom.report.html import Html, join, tag
from fathom.report.plot import smooth, spread

Points = Sequence[tuple[float, float]]
LEFT, BOTTOM, NAMES, EDGE = 44, 42, 120, 14  # margins, in CSS pixels; NAMES: for the names of the lines
BUCKETS, SMOOTHED, DOTS = 240, 300, 60  # points that are drawn at most
WORD = 85  # pixels that the word "overfitting" takes
LINE = 17  # pixels from one name to the next


@dataclass(frozen=True)
class Loss:
    """What is drawn. train and validation: (step, loss), finite. best: a point that is marked, with words.

    overfits: the step from which the drawing is shaded. guessing: a height that is marked where the losses reach it.
    """

    train: Points
    validation: Points
    best: tuple[float, float] | None = None
    best_words: str = ""
    overfits: float | None = None
    guessing: float | None = None


@dataclass(frozen=True)
class Frame:
    """Where values are, in pixels."""

    width: int
    height: int
    top: int  # margin
    right: int  # margin
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value: float) -> float:
        low, high = self.x_range
        return LEFT + (value - low) / (high - low) * (self.end - LEFT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.top + (high - value) / (high - low) * (self.floor - self.top)

    @property
    def end(self) -> int:
        return self.width - self.right

    @property
    def floor(self) -> int:
        return self.height - BOTTOM


def loss_chart(loss: Loss) -> Html:
    """A drawing for wide windows and one for phones; page.css shows one of them. Empty where nothing was measured."""
    if not loss.train and not loss.validation:
        return Html("")
    wide, phone = Frame(960, 350, 28, NAMES, *ranges(loss)), Frame(360, 310, 44, EDGE, *ranges(loss))
    return join(drawing(loss, wide, "wide"), drawing(loss, phone, "phone"))


def drawing(loss: Loss, frame: Frame, kind: str) -> Html:
    """One SVG."""
    span = max(0.02, min(0.2, 12 / max(len(loss.train), 1)))  # of the run; a dozen values where there are enough
    smoothed = list(zip([step for step, _ in loss.train], smooth([value for _, value in loss.train], span)))
    parts = [
        *shade(loss, frame),
        *grid(frame),
        *guessing(loss, frame),
        line(frame, envelope(loss.train), "train raw"),
        line(frame, thinned(smoothed), "train"),
        line(frame, loss.validation, "validation"),
        *dots(loss, frame),
        *best(loss, frame),
        *names(loss, smoothed, frame),
    ]
    box = {"viewBox": f"0 0 {frame.width} {frame.height}", "role": "img"}
    box["aria-label"] = "loss against step" + (f"; {loss.best_words}" if loss.best_words else "")
    return tag("svg", *parts, **box, class_=f"chart {kind}")


def ranges(loss: Loss) -> tuple[tuple[float, float], tuple[float, float]]:
    """The steps and the losses that are drawn: the smoothed training loss and, unless they are spikes, all values."""
    points = [*loss.train, *loss.validation]
    steps, losses = [step for step, _ in points], sorted(value for _, value in points)
    low, high = losses[0], losses[-1]
    if loss.guessing is not None and low < loss.guessing < high + 0.15 * (high - low):
        high = max(high, loss.guessing)
    room = 0.05 * (high - low) or 0.05 * max(abs(high), 1.0)
    return (min(0, *steps), max(1, *steps)), (max(low - room, 0.0 if low >= 0 else low - room), high + room)


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> Html:
    at = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}
    return tag("text", words, **at, **({"class_": kind} if kind else {}))


def rule(x1: float, y1: float, x2: float, y2: float, kind: str) -> Html:
    return tag("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_=kind)


def line(frame: Frame, points: Points, kind: str) -> Html:
    places = " ".join(f"{frame.x(step):.1f},{frame.y(value):.1f}" for step, value in points)
    return tag("polyline", points=places, class_=kind)


def grid(frame: Frame) -> Iterator[Html]:
    """Horizontal lines with their losses, the axis with its steps, and what both are."""
    unit = tick(frame.y_range, 5)
    for value in ticks(frame.y_range, unit):
        yield rule(LEFT, frame.y(value), frame.end, frame.y(value), "grid")
        yield text(LEFT - 8, frame.y(value) + 4, f"{value:.{places(unit)}f}", anchor="end")
    yield rule(LEFT, frame.floor, frame.end, frame.floor, "axis")
    across = max(1.0, tick(frame.x_range, 6 if frame.width > 500 else 4))
    for step in ticks(frame.x_range, across):
        yield rule(frame.x(step), frame.floor, frame.x(step), frame.floor + 4, "axis")
        yield text(frame.x(step), frame.floor + 18, f"{step:,.0f}", anchor="middle")
    yield text((LEFT + frame.end) / 2, frame.height - 4, "step", anchor="middle")
    yield text(0, 12, "loss, nats per token")


def tick(span: tuple[float, float], most: int) -> float:
    """1, 2 or 5 times a power of ten, so that about `most` fit into the span."""
    rough = (span[1] - span[0]) / most
    power = 10.0 ** math.floor(math.log10(rough))
    return next(unit * power for unit in (1, 2, 5, 10) if unit * power >= rough)


def ticks(span: tuple[float, float], unit: float) -> list[float]:
    first, last = math.ceil(span[0] / unit - 1e-9), math.floor(span[1] / unit + 1e-9)
    return [place * unit for place in range(first, last + 1)]


def places(unit: float) -> int:
    """Decimals that tell multiples of the unit apart."""
    return max(0, -math.floor(math.log10(unit) + 1e-9))


def shade(loss: Loss, frame: Frame) -> Iterator[Html]:
    """The part of the run in which the model overfits."""
    if loss.overfits is not None and loss.overfits < frame.x_range[1]:
        x, width = frame.x(loss.overfits), frame.end - frame.x(loss.overfits)
        at = {"x": f"{x:.1f}", "y": f"{frame.top}", "width": f"{width:.1f}", "height": f"{frame.floor - frame.top}"}
        yield tag("rect", **at, class_="shade")
        yield rule(x, frame.top, x, frame.floor, "since")
        room = frame.end - x > WORD
        yield text(x + 7 if room else x - 7, frame.top + 14, "overfitting", "validation", "start" if room else "end")


def guessing(loss: Loss, frame: Frame) -> Iterator[Html]:
    if loss.guessing is not None and frame.y_range[0] < loss.guessing < frame.y_range[1]:
        y = frame.y(loss.guessing)
        yield rule(LEFT, y, frame.end, y, "reference")


def dots(loss: Loss, frame: Frame) -> Iterator[Html]:
    """The evaluations, each with its value for a pointer that rests on it."""
    for step, value in loss.validation if len(loss.validation) <= DOTS else ():
        at = {"cx": f"{frame.x(step):.1f}", "cy": f"{frame.y(value):.1f}", "r": "3"}
        yield tag("circle", tag("title", f"validation loss {value:.4f} at step {step:,.0f}"), **at, class_="dot")


def best(loss: Loss, frame: Frame) -> Iterator[Html]:
    """A ring around the best evaluation, and its words above its step."""
    if loss.best is not None:
        x, y = frame.x(loss.best[0]), frame.y(loss.best[1])
        half = 3.4 * len(loss.best_words)  # about half the width of the words
        yield rule(x, y + 6, x, frame.floor, "since")
        yield tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="6", class_="ring")
        middle = min(max(x, LEFT + half + 6), frame.end - half)
        drawn = [frame.y(v) for s, v in [*loss.train, *loss.validation] if abs(frame.x(s) - middle) <= half]
        below = frame.floor - max([y, *drawn]) > 2 * LINE  # where no curve crosses them: under all, else above all
        at = frame.floor - 8 if below else max(min([y - 4, *drawn]) - 10, frame.top + 12)
        yield text(middle, at, loss.best_words, "mark", "middle")


def names(loss: Loss, smoothed: Points, frame: Frame) -> Iterator[Html]:
    """The lines by name with their last values: at their ends or, on a phone, above the drawing."""
    last = [(kind, points[-1][1]) for kind, points in (("train", smoothed), ("validation", loss.validation)) if points]
    if frame.right != NAMES:
        for column, (kind, value) in enumerate(last):
            yield text(LEFT + 120 * column, 12 + LINE, f"{kind} {value:.3f}", kind)
        return
    if loss.guessing is not None and frame.y_range[0] < loss.guessing < frame.y_range[1]:
        last.append(("guessing", loss.guessing))
    ends = sorted((frame.y(value), kind, f"{kind} {value:.3f}") for kind, value in last)
    for (_, kind, words), y in zip(ends, spread([y for y, *_ in ends], LINE, frame.floor)):
        yield text(frame.end + 10, y + 4, words, kind)


def envelope(points: Points) -> Points:
    """The lowest and the highest of each of a few stretches, in their order: what many points look like."""
    size = -(-len(points) // BUCKETS)
    if size < 3:
        return points
    chosen = []
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        low, high = (choose(bucket, key=lambda point: point[1]) for choose in (min, max))
        chosen += sorted({low, high})
    return chosen


def thinned(points: Points) -> Points:
    """Every so many-th point, and the last."""
    stride = -(-len(points) // SMOOTHED) or 1
    return [*points[::stride], *points[-1:]]
