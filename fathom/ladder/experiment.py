"""Every rung on the same data, in the same order, for the same number of steps, over several seeds.

The minutes bound the whole. Seeds are climbed one after the other, so that a ladder cut short has fewer seeds and not
fewer rungs; ladder.json is whole after every run.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from fathom.data.batches import Batches, eval_windows
from fathom.errors import Diverged, FathomError
from fathom.fields import plain
from fathom.formats.config_file import CONFIG, write_config
from fathom.formats.run import WEIGHTS, write_weights
from fathom.generate.generate import generate
from fathom.generate.options import GenerateOptions
from fathom.ladder.options import LadderOptions
from fathom.ladder.references import references
from fathom.ladder.result import LadderResult, Text, Trained, folder_of, read, write
from fathom.ladder.rungs import Rung, find, rungs
from fathom.machine import describe, pick_device
from fathom.tokenizer import load as tokenizers
from fathom.train.events import Evaluated, Event, Note, Prepared, Report, silent
from fathom.train.loop import Session, evaluate, fit
from fathom.train.presets import Recipe
from fathom.train.run import Run, created, open_run, recipe_of

# How many steps fit into the minutes: a few steps of each rung are timed, and all rungs get the same number.

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


SAMPLE_TOKENS = 200
Stop = Callable[[], bool]


def never() -> bool:
    return False


@dataclass(frozen=True)
class Ground:
    """What all runs of a ladder stand on."""

    folder: Path
    run: Run  # the text as tokens, and its tokenizer
    validation: list[Tensor]  # chunks of windows (b, t + 1)
    report: Report
    stop: Stop

    def batches(self, options: LadderOptions, seed: int) -> Batches:
        return Batches(self.run.tokens("train"), options.context_length, options.batch_size, seed)

    def fastest_threads(self, options: LadderOptions) -> AbstractContextManager[int]:
        """Judged by the top rung, which takes most of the time."""
        top = rungs(self.run.tokenizer.vocab_size, options.context_length, options.d_model)[-1]
        return fastest_threads(top, options, self.batches(options, options.seed), self.validation)


def climb(
    options: LadderOptions, folder: Path, overwrite: bool = False, report: Report = silent, stop: Stop = never
) -> LadderResult:
    """Train every rung with every seed. Ends early, with what was measured until then, when `stop()` says so or the
    minutes are over."""
    end = time.monotonic() + 60 * options.minutes - REPORT_SECONDS
    find(options.rungs, rungs(1))
    with ExitStack() as stack:
        with created(recipe(options), folder, overwrite, report) as run:
            ground = stand(run, options, report, until(end, stop))
            stack.enter_context(ground.fastest_threads(options))
            result = begin(options, ground)
            costs = measured(result, ground)
            steps = options.steps or plan(costs, options, end - time.monotonic())
        ground = replace(ground, folder=folder, run=replace(run, folder=folder))
        return go_on(replace(result, steps=steps), ground, costs)


def resume(folder: Path, minutes: float, report: Report = silent, stop: Stop = never) -> LadderResult:
    """Train what the ladder in `folder` still lacks, as it was begun: the same text, settings and steps."""
    end = time.monotonic() + 60 * minutes - REPORT_SECONDS
    result = read(folder)
    ground = stand(open_run(folder), result.options, report, until(end, stop))
    with ground.fastest_threads(result.options):
        return go_on(result, ground, measured(result, ground))


def until(end: float, stop: Stop) -> Stop:
    return lambda: stop() or time.monotonic() > end


def recipe(options: LadderOptions) -> Recipe:
    """The folder of a ladder is the run folder of its top rung, without checkpoints."""
    top = rungs(1, options.context_length, options.d_model)[-1].config
    made = recipe_of(top, options.training(options.seed, options.steps or 1))
    return Recipe(model={name: value for name, value in made.model.items() if name != "vocab_size"}, train=made.train)


def stand(run: Run, options: LadderOptions, report: Report, stop: Stop) -> Ground:
    windows = eval_windows(run.tokens("val"), options.context_length, options.eval_windows)
    return Ground(run.folder, run, list(windows), report, stop)


def begin(options: LadderOptions, ground: Ground) -> LadderResult:
    """A ladder without runs: the text, the machine, and what counting predicts."""
    facts, vocab_size = ground.run.facts, ground.run.tokenizer.vocab_size
    text = Text(facts.corpus, facts.fingerprint, vocab_size, facts.n_train, facts.n_val, facts.val_characters)
    counted = references(ground.run.tokens("train"), ground.validation, vocab_size)
    return LadderResult(options, text, describe(pick_device(options.device)), 0, counted)


def measured(result: LadderResult, ground: Ground) -> dict[str, Cost]:
    """What each rung costs on this machine."""
    costs: dict[str, Cost] = {}
    batches = ground.batches(result.options, result.options.seed)
    for rung in result.ladder:
        costs[rung.key] = measure(rung, result.options, batches, ground.validation)
        ground.report(Prepared("rungs timed", len(costs), len(result.ladder)))
    return costs


def go_on(result: LadderResult, ground: Ground, costs: Mapping[str, Cost]) -> LadderResult:
    """Train what is missing, seed by seed, each from the bottom."""
    write(result, ground.folder)
    missing = [
        (seed, rung)
        for seed in result.options.all_seeds
        for rung in result.ladder
        if seed not in result.losses(rung.key)
    ]
    seconds = [costs[rung.key].run(result.steps, result.options.evaluations) for _, rung in missing]
    pace = Pace(sum(seconds), ground.report)
    for (seed, rung), planned in zip(missing, seconds):
        trained = train(rung, seed, result, ground, pace.part(planned))
        if ground.stop() and trained is None:
            break
        if trained is not None:
            result = result.with_run(trained)
            write(result, ground.folder)
    return result


def train(
    rung: Rung, seed: int, result: LadderResult, ground: Ground, moved: Callable[[float], None]
) -> Trained | None:
    """One run; `moved` is told the part that is done. None where it was stopped or diverged."""
    session = Session.start(rung.config, result.options.training(seed, result.steps))
    points: dict[int, float] = {}

    def listen(event: Event) -> None:
        moved(session.progress)
        if isinstance(event, Evaluated):
            points[event.step] = event.loss

    try:
        fit(session, ground.batches(result.options, seed), ground.validation, listen, stop=ground.stop)
    except Diverged as problem:
        ground.report(Note(f"{rung.idea.title}, seed {seed}: {problem}", warning=True))
    if not session.finished:
        return None
    ground.report(Note(f"{rung.idea.title}, seed {seed}: validation loss {session.validation_loss:.4f}"))
    keep(session, rung, seed, ground)
    written = sample(session, seed, ground) if seed == result.options.seed else None
    folder = folder_of(rung.key, seed)
    return Trained(rung.key, seed, tuple(points), tuple(points.values()), session.seconds, folder, written)


def keep(session: Session, rung: Rung, seed: int, ground: Ground) -> None:
    """The trained model as a folder that `fathom generate` reads."""
    folder = ground.folder / folder_of(rung.key, seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder / CONFIG, {"model": plain(session.model.config), "train": plain(session.options)})
    tokenizers.save(ground.run.tokenizer, folder / tokenizers.FILE)
    write_weights(session.model, folder / WEIGHTS)


def sample(session: Session, seed: int, ground: Ground) -> str:
    """What the model writes after the first token of the validation text."""
    first = [int(ground.validation[0][0, 0])]
    options = GenerateOptions(max_new_tokens=SAMPLE_TOKENS, temperature=0.8, seed=seed)
    session.model.eval()
    return generate(session.model, ground.run.tokenizer, [first], options)[0].text
