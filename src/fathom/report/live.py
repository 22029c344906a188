"""Live view of training on stderr: an updating display on a terminal, a line every few seconds elsewhere.

Fed by method calls with plain values; never writes to stdout.
"""

import contextlib
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fathom.words import fitted

SAMPLE_LINES = 10
SPARKS = 32  # characters of the loss curve, at most
BARS = "▁▂▃▄▅▆▇█"
RECENT = 5.0  # seconds over which speed is measured


@dataclass
class State:
    """What is displayed; None and "" are not."""

    what: str = "step"
    done: int = 0
    total: int = 0
    facts: dict[str, str] = field(default_factory=dict)
    remaining: float | None = None  # seconds
    sample: str = ""
    sampled: int = 0  # the step of the sample
    losses: list[float] = field(default_factory=list)  # means over `share` steps each
    share: int = 1
    pending: list[float] = field(default_factory=list)

    def add_loss(self, loss: float) -> None:
        """Keep the loss for the sparkline: however long the run, a few values, each the mean of as many steps."""
        self.pending.append(loss)
        if len(self.pending) >= self.share:
            self.losses.append(sum(self.pending) / len(self.pending))
            self.pending = []
        if len(self.losses) == 2 * SPARKS:
            self.losses = [(a + b) / 2 for a, b in zip(self.losses[::2], self.losses[1::2])]
            self.share *= 2


class LiveView:
    """`with LiveView(title) as view: view.progress(...)`. Where stderr is not a terminal, a line of progress is written
    every `interval` seconds."""

    def __init__(self, title: str, console: Console | None = None, interval: float = 5.0) -> None:
        self.title, self.interval = title, interval
        self.console = console or Stderr(stderr=True)
        self.state, self.speed = State(), Speed()
        self.silent_until = 0.0
        animated = self.console.is_terminal and not self.console.is_dumb_terminal
        self.live = Live(get_renderable=self.display, console=self.console, redirect_stdout=False) if animated else None

    def __enter__(self) -> "LiveView":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            if self.live:
                self.live.stop()
            elif kind is None and self.state.done and self.silent_until:
                self.say(self.line())

    def note(self, text: str, warning: bool = False) -> None:
        """A line that stays on the screen."""
        self.say(Text(f"warning: {text}" if warning else text, style="yellow" if warning else ""))

    def prepared(self, what: str, done: int, total: int, left: float | None = None) -> None:
        """Progress of preparation, in units of `what`; `left` in seconds, if known."""
        state = self.state
        if what != state.what and self.interval:
            self.silent_until = time.monotonic() + self.interval  # short work needs no line
        state.what, state.done, state.total, state.remaining = what, done, total, left
        self.update(at_once=False)

    def progress(
        self,
        step: int,
        steps: int,
        loss: float,
        tokens: int,
        seconds: float,
        learning_rate: float | None = None,
        left: float | None = None,
    ) -> None:
        """After a step. `tokens` and `seconds` since the run began, and `left` until it ends; loss in nats per token.

        Where `left` is not known it follows from the speed of the last seconds.
        """
        rates = self.speed.measured(step, tokens, seconds)
        state = self.state
        if state.what != "step":
            self.silent_until = 0.0
        state.what, state.done, state.total = "step", step, steps
        state.add_loss(loss)
        state.facts |= {"loss": f"{loss:.4f}", "time": clock(seconds)}
        if learning_rate is not None:
            state.facts["lr"] = f"{learning_rate:.2g}"
        if rates:
            steps_per_second, tokens_per_second = rates
            state.facts["tokens/s"] = f"{tokens_per_second:,.0f}"
            state.remaining = (steps - step) / steps_per_second if steps else None
        state.remaining = state.remaining if left is None else left
        self.update(at_once=step >= steps > 0)

    def evaluated(self, step: int, loss: float, bits_per_character: float | None = None) -> None:
        """Validation loss in nats per token."""
        bits = "" if bits_per_character is None else f"  {bits_per_character:.3f} bits per character"
        self.state.facts["val"] = f"{loss:.4f}"
        self.say(Text(f"step {step:>6,}  validation loss {loss:.4f}{bits}"))

    def sample(self, step: int, text: str) -> None:
        """Text generated by the current model."""
        lines = printable(text).strip("\n").splitlines()
        self.state.sample, self.state.sampled = "\n".join(lines[:SAMPLE_LINES]), step
        if not self.live:
            self.say(Text("\n".join([f"step {step:>6,}  sample", *(f"    {line}" for line in lines)])))

    def saved(self, step: int, path: Path | str) -> None:
        """A checkpoint is on disk."""
        self.state.facts["saved"] = f"{step:,}"

    def update(self, at_once: bool) -> None:
        """Write a line of progress if it is due; on a terminal the display updates itself."""
        now = time.monotonic()
        if not self.live and (at_once or now >= self.silent_until):
            self.say(self.line())
            self.silent_until = 0.0 if at_once else now + self.interval

    def say(self, text: Text) -> None:
        """Write a line that stays, on a terminal broken between words. A stderr that cannot be written to must not end
        a training run."""
        if self.live:
            text = Text(fitted(text.plain, self.console.width), style=text.style)
        with contextlib.suppress(OSError):
            self.console.print(text, soft_wrap=True, highlight=False)

    def line(self) -> Text:
        """The state as one line."""
        state = self.state
        where = f"{state.what} {state.done:>6,}" + (f"/{state.total:,}" if state.total else "")
        left = [] if state.remaining is None else [f"left {clock(state.remaining)}"]
        return Text("  ".join([where, *(f"{name} {value}" for name, value in state.facts.items()), *left]))

    def display(self) -> RenderableType:
        """The state as a terminal shows it."""
        state = self.state
        left = "" if state.remaining is None else f"{clock(state.remaining)} left"
        where = f"{state.what} {state.done:,}" + (f"/{state.total:,}" if state.total else "")
        where = where if state.done or state.total else ""  # nothing has begun
        width = min(40, self.console.width // 5)
        bar = Table.grid(padding=(0, 2))
        bar.add_column(
            no_wrap=True, overflow="ellipsis", max_width=max(8, self.console.width - width - len(where + left) - 6)
        )
        for _ in range(3):
            bar.add_column(no_wrap=True)
        bar.add_row(
            Text(self.title, style="bold"),
            ProgressBar(total=max(state.total, 1), completed=state.done, width=width),
            Text(where),
            Text(left, style="dim"),
        )
        parts: list[RenderableType] = [bar, *self.facts()]
        if state.sample:
            title = Text(f"step {state.sampled:,}", style="dim")
            parts.append(Panel(Text(state.sample), title=title, title_align="left", border_style="dim"))
        return Group(*parts)

    def facts(self) -> list[Text]:
        """The loss so far as a sparkline, and facts in lines as wide as the terminal: none is broken."""
        lines = [Text.assemble(("loss ", "dim"), sparkline(self.state.losses))] if len(self.state.losses) > 1 else []
        line = Text()
        for name, value in self.state.facts.items():
            fact = Text.assemble((f"{name} ", "dim"), value)
            if line.plain and len(line.plain) + 3 + len(fact.plain) > self.console.width:
                lines.append(line)
                line = Text()
            line = Text("   ").join([line, fact]) if line.plain else fact
        return [*lines, line]


class Stderr(Console):
    """A console whose reader may go away without ending the program, as in `fathom train 2>&1 | head`."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Speed:
    """Steps and tokens per second over the last RECENT seconds."""

    def __init__(self) -> None:
        self.recent: deque[tuple[float, int, int]] = deque()  # (seconds, step, tokens)

    def measured(self, step: int, tokens: int, seconds: float) -> tuple[float, float] | None:
        """(steps per second, tokens per second); None after a single measurement."""
        self.recent.append((seconds, step, tokens))
        while len(self.recent) > 2 and self.recent[1][0] < seconds - RECENT:
            self.recent.popleft()
        then, first_step, first_tokens = self.recent[0]
        if seconds <= then or step <= first_step:
            return None
        return (step - first_step) / (seconds - then), (tokens - first_tokens) / (seconds - then)


def sparkline(values: Sequence[float]) -> str:
    """Finite values as bars, the lowest and the highest as ▁ and █."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in finite)


def clock(seconds: float) -> str:
    """3723 -> 1:02:03"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def printable(text: str) -> str:
    """The text without terminal control: every control character but the newline becomes U+FFFD."""
    return "".join(c if c == "\n" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text.expandtabs(4))
