"""What a ladder has measured, as one JSON file that is whole after every run, so that a ladder cut short still counts.

Every number names its run: (rung, seed) and the folder with that run's model. Does not train.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fathom.errors import FathomError
from fathom.fields import build, plain
from fathom.files import atomic_write
from fathom.ladder.options import LadderOptions
from fathom.ladder.references import References
from fathom.ladder.rungs import Rung, find, rungs

# A difference between two rungs, and how sure it is.
#
# Both rungs are trained with the same seeds, and a seed gives both the same data in the same order; so differences
# are taken seed by seed (a paired t-interval, Student 1908). What differs between seeds is the start and the order.

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds, its standard error, and half the width of its interval (None: one seed cannot say)."""

    mean: float
    n: int
    standard_error: float | None
    half_width: float | None

    @property
    def verdict(self) -> str:
        """For a difference in loss: "better" or "worse" where the interval leaves out 0."""
        if self.half_width is None:
            return "one seed, unknown"
        if abs(self.mean) <= self.half_width:
            return "within noise"
        return "better" if self.mean > 0 else "worse"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and t-interval of independent values; there must be one."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, 1, None, None)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    error = math.sqrt(variance / n)
    return Estimate(mean, n, error, t_quantile(n - 1) * error)


def bought(below: Mapping[int, float], above: Mapping[int, float]) -> Estimate | None:
    """By how much the loss fell from the rung below, over the seeds that both have; None where they share none."""
    shared = sorted(below.keys() & above.keys())
    return estimate([below[seed] - above[seed] for seed in shared]) if shared else None


def t_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """The t for which Student's distribution with `freedom` degrees lies between -t and t with this probability."""
    low, high = 0.0, 1.0
    while t_within(high, freedom) < confidence:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_within(middle, freedom) < confidence else (low, middle)
    return high


def t_within(t: float, freedom: int) -> float:
    """P(-t < T < t), as the finite sums of Abramowitz & Stegun 26.7.3 (odd) and 26.7.4 (even)."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term, total = (math.cos(angle), 0.0) if odd else (1.0, 0.0)
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= math.cos(angle) ** 2 * k / (k + 1)
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


FILE = "ladder.json"


@dataclass(frozen=True)
class Trained:
    """One rung trained with one seed: its validation loss in nats per token at some steps, the last one the result."""

    rung: str
    seed: int
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    seconds: float  # of training alone
    folder: str  # of the model, from the folder of the ladder
    sample: str | None = None  # written by this model; one seed writes

    @property
    def loss(self) -> float:
        return self.losses[-1]


@dataclass(frozen=True)
class Text:
    """What was learned from."""

    name: str
    fingerprint: str  # sha256
    vocab_size: int
    n_train: int  # tokens
    n_val: int
    val_characters: int


@dataclass(frozen=True)
class LadderResult:
    """Everything a report needs; grows by `trained`."""

    options: LadderOptions
    text: Text
    machine: str
    steps: int  # of every run
    references: References
    trained: tuple[Trained, ...] = field(default=())

    @property
    def ladder(self) -> list[Rung]:
        """The rungs this ladder is made of, from the bottom."""
        o = self.options
        return find(o.rungs, rungs(self.text.vocab_size, o.context_length, o.d_model))

    @property
    def complete(self) -> bool:
        return len(self.trained) == len(self.ladder) * self.options.seeds

    @property
    def tokens(self) -> int:
        """Tokens each run is trained on."""
        return self.steps * self.options.batch_size * self.options.context_length

    def runs(self, rung: str) -> list[Trained]:
        """This rung's runs, by seed."""
        return sorted((run for run in self.trained if run.rung == rung), key=lambda run: run.seed)

    def losses(self, rung: str) -> dict[int, float]:
        return {run.seed: run.loss for run in self.runs(rung)}

    def loss(self, rung: str) -> Estimate | None:
        """Mean validation loss and its interval; None where no run has ended."""
        losses = self.losses(rung)
        return estimate(list(losses.values())) if losses else None

    def bought(self, rung: str) -> Estimate | None:
        """By how much this rung's loss is below that of the rung under it; None at the bottom or without runs."""
        keys = [r.key for r in self.ladder]
        place = keys.index(rung)
        return bought(self.losses(keys[place - 1]), self.losses(rung)) if place else None

    def bits_per_character(self, loss: float) -> float:
        """Nats per token as bits per character of the validation text."""
        return loss / math.log(2) * self.text.n_val / self.text.val_characters

    def with_run(self, run: Trained) -> "LadderResult":
        return replace(self, trained=(*self.trained, run))


def write(result: LadderResult, folder: Path) -> None:
    """ladder.json, whole or as it was before."""
    with atomic_write(folder / FILE) as temporary:
        temporary.write_text(json.dumps(plain(result), indent=1, ensure_ascii=False), encoding="utf-8")


def read(folder: Path) -> LadderResult:
    """What `write` wrote. FathomError where it is missing or damaged."""
    path = folder / FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FathomError(f"{path} does not exist; no ladder has been climbed in {folder}") from None
    except (OSError, ValueError) as error:
        raise FathomError(f"{path} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise FathomError(f"{path} holds {type(values).__name__}; expected what a ladder writes")
    return build(LadderResult, values, str(path))


def folder_of(rung: str, seed: int) -> str:
    """Where the model of a run lies, from the folder of the ladder."""
    return f"models/{rung}-{seed}"
