"""Training as it happens, on stderr: a moving picture on a terminal, a line every few seconds anywhere else.

Fed by method calls with plain values. Does not know what trains, and never writes to stdout.
"""

import contextlib
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

SAMPLE_LINES = 10
RECENT = 5.0  # seconds over which speed is measured


@dataclass
class Shown:
    """What is known so far; None and "" are not shown."""

    what: str = "step"
    done: int = 0
    total: int = 0
    facts: dict[str, str] = field(default_factory=dict)
    remaining: float | None = None  # seconds
    sample: str = ""
    sampled: int = 0  # the step the sample was written at


class LiveView:
    """`with LiveView(title) as view: view.progress(...)`. Where stderr is not a terminal, `interval` seconds lie
    between two lines of progress."""

    def __init__(self, title: str, console: Console | None = None, interval: float = 5.0) -> None:
        self.title, self.interval = title, interval
        self.console = console or Stderr(stderr=True)
        self.shown, self.speed = Shown(), Speed()
        self.silent_until = 0.0
        moving = self.console.is_terminal and not self.console.is_dumb_terminal
        self.live = Live(get_renderable=self.picture, console=self.console, redirect_stdout=False) if moving else None

    def __enter__(self) -> "LiveView":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            if self.live:
                self.live.stop()
            elif kind is None and self.shown.done and self.silent_until:
                self.say(self.line())

    def note(self, text: str, warning: bool = False) -> None:
        """A fact that stays on the screen."""
        self.say(Text(f"warning: {text}" if warning else text, style="yellow" if warning else ""))

    def prepared(self, what: str, done: int, total: int) -> None:
        """How far preparing has come, in units of `what`."""
        shown = self.shown
        if what != shown.what and self.interval:
            self.silent_until = time.monotonic() + self.interval  # what is over by then needs no line
        shown.what, shown.done, shown.total = what, done, total
        self.moved(at_once=False)

    def progress(
        self, step: int, steps: int, loss: float, tokens: int, seconds: float, learning_rate: float | None = None
    ) -> None:
        """After a step. `tokens` and `seconds` since the run began; loss in nats per token."""
        rates = self.speed.measured(step, tokens, seconds)
        shown = self.shown
        if shown.what != "step":
            self.silent_until = 0.0
        shown.what, shown.done, shown.total = "step", step, steps
        shown.facts |= {"loss": f"{loss:.4f}", "time": clock(seconds)}
        if learning_rate is not None:
            shown.facts["lr"] = f"{learning_rate:.2g}"
        if rates:
            steps_per_second, tokens_per_second = rates
            shown.facts["tokens/s"] = f"{tokens_per_second:,.0f}"
            shown.remaining = (steps - step) / steps_per_second
        self.moved(at_once=step >= steps)

    def evaluated(self, step: int, loss: float, bits_per_character: float | None = None) -> None:
        """Validation loss in nats per token."""
        bits = "" if bits_per_character is None else f"  {bits_per_character:.3f} bits per character"
        self.shown.facts["val"] = f"{loss:.4f}"
        self.say(Text(f"step {step:>6,}  validation loss {loss:.4f}{bits}"))

    def sample(self, step: int, text: str) -> None:
        """Text written by the model as it is now."""
        lines = printable(text).strip("\n").splitlines()
        self.shown.sample, self.shown.sampled = "\n".join(lines[:SAMPLE_LINES]), step
        if not self.live:
            self.say(Text("\n".join([f"step {step:>6,}  sample", *(f"    {line}" for line in lines)])))

    def saved(self, step: int, path: Path | str) -> None:
        """A checkpoint is on disk."""
        self.shown.facts["saved"] = f"{step:,}"

    def moved(self, at_once: bool) -> None:
        """Say where we are, if it is time to. A moving picture draws itself."""
        now = time.monotonic()
        if not self.live and (at_once or now >= self.silent_until):
            self.say(self.line())
            self.silent_until = 0.0 if at_once else now + self.interval

    def say(self, shown: RenderableType) -> None:
        """Write something that stays. A stderr that cannot be written to must not end a training run."""
        with contextlib.suppress(OSError):
            self.console.print(shown, soft_wrap=True, highlight=False)

    def line(self) -> Text:
        """Everything known, in one line."""
        shown = self.shown
        where = f"{shown.what} {shown.done:>6,}/{shown.total:,}"
        left = [] if shown.remaining is None else [f"left {clock(shown.remaining)}"]
        return Text("  ".join([where, *(f"{name} {value}" for name, value in shown.facts.items()), *left]))

    def picture(self) -> RenderableType:
        """Everything known, as a terminal shows it."""
        shown = self.shown
        bar = Table.grid(padding=(0, 2))
        bar.add_column(no_wrap=True)
        left = "" if shown.remaining is None else f"{clock(shown.remaining)} left"
        bar.add_row(
            Text(self.title, style="bold"),
            ProgressBar(total=max(shown.total, 1), completed=shown.done, width=min(40, self.console.width // 3)),
            Text(f"{shown.what} {shown.done:,}/{shown.total:,}"),
            Text(left, style="dim"),
        )
        facts = Text("   ").join(Text.assemble((f"{k} ", "dim"), v) for k, v in shown.facts.items())
        parts: list[RenderableType] = [bar, facts]
        if shown.sample:
            title = Text(f"step {shown.sampled:,}", style="dim")
            parts.append(Panel(Text(shown.sample), title=title, title_align="left", border_style="dim"))
        return Group(*parts)


class Stderr(Console):
    """A console whose reader may go away without ending the program, as in `fathom train 2>&1 | head`."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Speed:
    """Steps and tokens per second over the last seconds, so that a pause long ago does not count."""

    def __init__(self) -> None:
        self.recent: deque[tuple[float, int, int]] = deque()  # (seconds, step, tokens)

    def measured(self, step: int, tokens: int, seconds: float) -> tuple[float, float] | None:
        """(steps per second, tokens per second), or None as long as there is nothing to compare with."""
        self.recent.append((seconds, step, tokens))
        while len(self.recent) > 2 and self.recent[1][0] < seconds - RECENT:
            self.recent.popleft()
        then, first_step, first_tokens = self.recent[0]
        if seconds <= then or step <= first_step:
            return None
        return (step - first_step) / (seconds - then), (tokens - first_tokens) / (seconds - then)


def clock(seconds: float) -> str:
    """3723 -> 1:02:03"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def printable(text: str) -> str:
    """The text without what a terminal would obey: every control character but the newline becomes U+FFFD."""
    return "".join(c if c == "\n" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text.expandtabs(4))
