"""Events of a training run as values, and the listener that keeps them: metrics.jsonl."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fathom.files import atomic_write


@dataclass(frozen=True)
class Note:
    """A fact or, with `warning`, something the user should look at."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Prepared:
    """Progress of preparing the data, or of an experiment's runs, in units of `what`; `left` in seconds, if known."""

    what: str
    done: int
    total: int
    left: float | None = None


@dataclass(frozen=True)
class Progress:
    """After a step: training loss in nats per token, tokens and seconds since the run began (over all resumes).

    `steps` is where the run will end: max_iters, or an estimate where the minutes end it; 0 before there is one.
    """

    step: int
    steps: int
    loss: float
    tokens: int
    seconds: float
    learning_rate: float
    grad_norm: float
    left: float | None = None  # seconds until the run ends, if known
    load_balancing_loss: float | None = None  # of a mixture of experts, without its weight; None: there are none


@dataclass(frozen=True)
class Evaluated:
    """Validation loss in nats per token, and in bits where the size of the text is known.

    peak_bytes: the most memory so far, of the process or on a GPU of torch.
    experts: for each layer with a mixture, how many tokens each expert ran since the last evaluation, over an even
    share: 1 where all run as many.
    """

    step: int
    loss: float
    seconds: float
    bits_per_character: float | None = None
    bits_per_byte: float | None = None
    experts: tuple[tuple[float, ...], ...] = ()
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Sample:
    """Text written by the model as it is now: a continuation, or the answer to `question`."""

    step: int
    text: str
    question: str = ""


@dataclass(frozen=True)
class Saved:
    """A checkpoint is on disk."""

    step: int
    path: Path


Event = Note | Prepared | Progress | Evaluated | Sample | Saved
Report = Callable[[Event], None]


def silent(event: Event) -> None:
    """The listener that does nothing."""


def broadcast(listeners: Sequence[Report]) -> Report:
    """One listener that passes each event on to all of these."""

    def send(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return send


LINES = 5000  # about as many lines of training loss as a run of any length writes


def line_of(event: Event) -> dict[str, Any] | None:
    """The line of metrics.jsonl: with "loss" after a step, with "val_loss" after an evaluation, and with "sample" where
    the model wrote something. None: the event is not kept; of a long run not every step is."""
    match event:
        case Progress() if event.step % max(1, event.steps // LINES) == 0 or event.step == event.steps:
            rates = {"learning_rate": event.learning_rate, "grad_norm": event.grad_norm}
            counts = {"tokens": event.tokens, "seconds": round(event.seconds, 4)}
            balance = event.load_balancing_loss
            rates |= {} if balance is None else {"load_balancing_loss": balance}
            return {"step": event.step, "loss": event.loss, **rates, **counts}
        case Evaluated():
            bits: dict[str, Any] = {
                "bits_per_character": event.bits_per_character,
                "bits_per_byte": event.bits_per_byte,
            }
            bits |= {"peak_bytes": event.peak_bytes} if event.peak_bytes else {}
            bits |= {"seconds": round(event.seconds, 4)} | ({"experts": event.experts} if event.experts else {})
            return {"step": event.step, "val_loss": event.loss, **bits}
        case Sample():
            question = {"question": event.question} if event.question else {}
            return {"step": event.step, **question, "sample": event.text}
    return None


class Metrics:
    """A listener that appends lines to metrics.jsonl.

    kept: the lines of the run so far. Later ones, of steps that were lost, are dropped: every step is there once.
    """

    def __init__(self, path: Path, kept: Sequence[Mapping[str, Any]]) -> None:
        with atomic_write(path) as new:
            new.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self.file = path.open("a", encoding="utf-8")

    def __call__(self, event: Event) -> None:
        if (line := line_of(event)) is not None:
            self.write(line)

    def write(self, line: dict[str, Any]) -> None:
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line cut off by a kill is left out."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def metrics_until(path: Path, step: int) -> list[dict[str, Any]]:
    """The lines of a run that continues at this step; none where it begins."""
    return [line for line in read_metrics(path) if line["step"] <= step] if step else []


def loss_curves(path: Path) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """(step, training loss) and (step, validation loss) of a metrics file, where they are finite."""
    return curves_in(read_metrics(path))


def curves_in(lines: Sequence[Mapping[str, Any]]) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """The same of lines that have been read."""
    curves = ([(line["step"], line[key]) for line in lines if key in line] for key in ("loss", "val_loss"))
    training, validation = ([(step, loss) for step, loss in curve if math.isfinite(loss)] for curve in curves)
    return training, validation
