"""What training has to say, as values. Whoever listens (a terminal, a log file, a test) decides how it looks."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Note:
    """A fact or, with `warning`, something the user should look at."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Prepared:
    """How far preparing the data has come, in units of `what`."""

    what: str
    done: int
    total: int


@dataclass(frozen=True)
class Progress:
    """After a step: training loss in nats per token, tokens and seconds since the run began (over all resumes).

    `steps` is where the run will end: max_iters, or earlier where the minutes end it.
    """

    step: int
    steps: int
    loss: float
    tokens: int
    seconds: float
    learning_rate: float
    grad_norm: float


@dataclass(frozen=True)
class Evaluated:
    """Validation loss in nats per token, and in bits where the text says how long it is."""

    step: int
    loss: float
    bits_per_character: float | None = None
    bits_per_byte: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Sample:
    """Text written by the model as it is now."""

    step: int
    text: str


@dataclass(frozen=True)
class Saved:
    """A checkpoint is on disk."""

    step: int
    path: Path


Event = Note | Prepared | Progress | Evaluated | Sample | Saved
Report = Callable[[Event], None]


def silent(event: Event) -> None:
    """Nobody listens."""


def together(listeners: Iterable[Report]) -> Report:
    """One listener that tells all of these."""
    everyone = list(listeners)

    def tell(event: Event) -> None:
        for listener in everyone:
            listener(event)

    return tell
