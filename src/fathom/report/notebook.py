"""The live view of training in a notebook: progress, the loss as it falls and the latest sample, in the cell's output.

IPython is asked for by name where it runs already: nothing here depends on it.
"""

import html
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from types import TracebackType
from typing import Any

from rich.console import RenderableType

from fathom.report.live import SAMPLE_LINES, LiveView, clock, printable

WIDTH, HEIGHT = 560, 140  # of the curve, in CSS pixels
POINTS, NOTES = 300, 12  # drawn at most
INTERVAL = 0.5  # seconds between two updates

Points = Sequence[tuple[float, float]]


def in_notebook() -> bool:
    """Whether this code runs in the kernel of a notebook."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_ipython is not None and getattr(get_ipython(), "kernel", None) is not None


class NotebookView(LiveView):
    """`with NotebookView(title) as view: view.progress(...)`, as LiveView, in the output of the cell that runs."""

    def __init__(self, title: str) -> None:
        super().__init__(title)
        self.live = None
        self.train: list[tuple[float, float]] = []
        self.validation: list[tuple[float, float]] = []
        self.notes: list[str] = []
        self.handle: Any = None
        self.due = 0.0

    def __enter__(self) -> "NotebookView":
        self.show()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.show()

    def progress(self, step: int, steps: int, loss: float, *others: Any, **named: Any) -> None:
        self.train.append((step, loss))
        super().progress(step, steps, loss, *others, **named)

    def evaluated(self, step: int, loss: float, bits_per_character: float | None = None) -> None:
        self.validation.append((step, loss))
        self.state.facts["val"] = f"{loss:.4f}"

    def say(self, text: RenderableType) -> None:
        self.notes = [*self.notes, str(text)][-NOTES:]
        self.update(at_once=False)

    def sample(self, step: int, text: str) -> None:
        lines = printable(text).strip("\n").splitlines()
        self.state.sample, self.state.sampled = "\n".join(lines[:SAMPLE_LINES]), step

    def update(self, at_once: bool) -> None:
        """Renew the output if it is due."""
        if at_once or time.monotonic() >= self.due:
            self.show()

    def show(self) -> None:
        """Write the output of the cell, or replace what was written."""
        ipython = import_module("IPython.display")
        page = ipython.HTML(self.page())
        if self.handle is None:
            self.handle = ipython.display(page, display_id=True)
        else:
            self.handle.update(page)
        self.due = time.monotonic() + INTERVAL

    def page(self) -> str:
        """The state as HTML."""
        state = self.state
        facts = [f"{name} {value}" for name, value in state.facts.items()]
        facts += [] if state.remaining is None else [f"{clock(state.remaining)} left"]
        parts = [
            f"<b>{html.escape(self.title)}</b> <progress value='{state.done}' max='{max(state.total, 1)}'></progress>"
            f" {html.escape(state.what)} {state.done:,}/{state.total:,}",
            html.escape(" · ".join(facts)),
            loss_curve_svg(self.train, self.validation),
        ]
        parts += ["<br>".join(map(html.escape, self.notes))] if self.notes else []
        if state.sample:
            parts.append(f"step {state.sampled:,}:<pre style='white-space:pre-wrap'>{html.escape(state.sample)}</pre>")
        return "".join(f"<div>{part}</div>" for part in parts if part)


def loss_curve_svg(train: Points, validation: Points) -> str:
    """Loss against step: training as a line, validation as dots; empty before the second step."""
    if len(train) < 2:
        return ""
    losses = [loss for _, loss in [*train, *validation]]
    low, high, first, last = min(losses), max(losses), train[0][0], train[-1][0]

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x = (point[0] - first) / max(last - first, 1) * (WIDTH - 70)
        return x + 5, 10 + (high - point[1]) / max(high - low, 1e-9) * (HEIGHT - 20)

    stride = max(1, len(train) // POINTS)
    points = [place(point) for point in [*train[::stride], train[-1]]]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='#c2570c'/>" for x, y in map(place, validation))
    x, y = points[-1]
    return (
        f"<svg width='{WIDTH}' height='{HEIGHT}' role='img' aria-label='loss against step'>"
        f"<polyline points='{line}' fill='none' stroke='#0b62c4' stroke-width='1.5'/>{dots}"
        f"<text x='{x + 6:.0f}' y='{y + 4:.0f}' font-size='12' fill='currentColor'>{train[-1][1]:.3f}</text></svg>"
        "<div style='opacity:.7'>loss, nats per token: training (line), validation (dots)</div>"
    )
