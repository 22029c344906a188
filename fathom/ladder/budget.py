"""How many steps fit into the minutes: a few steps of each rung are timed, and all rungs get the same number."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor

from fathom.data.batches import Batches
from fathom.errors import FathomError
from fathom.ladder.options import LadderOptions
from fathom.ladder.rungs import Rung
from fathom.train.events import Prepared, Report
from fathom.train.loop import Session, evaluate, fit

PROBE = 6  # steps that are timed; the first half warms up
FEWEST = 20  # steps below which a ladder says nothing
REPORT_SECONDS = 12.0  # kept for the report
SLACK = 0.88  # of the time left that is planned for; machines are not even


@dataclass(frozen=True)
class Cost:
    """Seconds that a rung takes on this machine."""

    step: float
    evaluation: float

    def run(self, steps: int, evaluations: int) -> float:
        """Seconds of a whole run."""
        return steps * self.step + evaluations * self.evaluation


def measure(rung: Rung, options: LadderOptions, batches: Batches, validation: Sequence[Tensor]) -> Cost:
    """What a step and an evaluation of this rung take, from a few steps of a model that is then forgotten."""
    still = replace(options, learning_rate=1e-9, muon_learning_rate=1e-9)  # what is timed cannot diverge
    training = replace(still.training(options.seed, PROBE), eval_interval=PROBE + 1)
    session, moments = Session.start(rung.config, training), [time.perf_counter()]
    fit(session, batches, validation[:1], lambda event: moments.append(time.perf_counter()))
    some, start = validation[:2], time.perf_counter()
    evaluate(session.model, some, session.precision)
    evaluation = (time.perf_counter() - start) * len(validation) / len(some)
    return Cost(median(after - before for before, after in pairwise(moments[PROBE // 2 :])), evaluation)


@contextmanager
def fastest_threads(
    rung: Rung, options: LadderOptions, batches: Batches, validation: Sequence[Tensor]
) -> Iterator[int]:
    """Within it torch uses one thread where that trains this rung faster than all of them, as with small models."""
    before = torch.get_num_threads()

    def seconds(threads: int) -> float:
        torch.set_num_threads(threads)
        return measure(rung, options, batches, validation).step

    try:
        choices = sorted({1, before})
        torch.set_num_threads(min(choices, key=seconds) if len(choices) > 1 else before)
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def plan(costs: Mapping[str, Cost], options: LadderOptions, seconds: float) -> int:
    """The steps every run can have, so that all runs with all their evaluations take these seconds."""
    per_step = options.seeds * sum(cost.step for cost in costs.values())
    fixed = options.seeds * options.evaluations * sum(cost.evaluation for cost in costs.values())
    steps = int((SLACK * seconds - fixed) / per_step)
    if steps < FEWEST:
        needed = (fixed + FEWEST * per_step) / SLACK + 60 * options.minutes - seconds
        raise FathomError(
            f"minutes={options.minutes:g} is too short for {len(costs)} rungs with {options.seeds} seeds; {FEWEST} "
            f"steps of each take {needed / 60:.1f} minutes here; give more minutes, or fewer rungs or seeds"
        )
    return steps - steps % options.evaluations if steps > options.evaluations else steps


class Pace:
    """How far a ladder has come, told in planned seconds, so that deep rungs count as much as they take."""

    def __init__(self, total: float, report: Report) -> None:
        self.total, self.report, self.before = total, report, 0.0

    def part(self, seconds: float) -> Callable[[float], None]:
        """The next part of the way takes this long; what is returned is told how much of it, 0 to 1, is done."""
        start = self.before
        self.before += seconds

        def moved(fraction: float) -> None:
            self.report(Prepared("planned seconds", round(start + fraction * seconds), round(self.total)))

        return moved
