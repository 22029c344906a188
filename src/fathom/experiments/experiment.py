"""Train every rung and take-away on the same data, in the same order, for the same number of steps, over several seeds.

The minutes bound the whole ladder: a few steps of each model are timed, and all get the same number of steps. Seeds are
trained one after the other, so that an interrupted ladder has fewer seeds and not fewer rungs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from fathom.anatomy.swap import swap
from fathom.data.batches import Batches, MixedBatches, eval_windows, text_batches
from fathom.errors import Diverged, FathomError
from fathom.experiments.options import LadderOptions
from fathom.experiments.references import references
from fathom.experiments.result import LadderResult, Text, Trained, folder_of, read, write
from fathom.experiments.rungs import Rung, find, rungs
from fathom.experiments.take_aways import everything
from fathom.fields import build, plain
from fathom.formats.config_file import CONFIG, write_config
from fathom.formats.run import WEIGHTS, write_weights
from fathom.generation.generate import generate
from fathom.generation.options import GenerateOptions
from fathom.machine import describe, keep_freed_memory, pick_device
from fathom.model.transformer import Transformer
from fathom.tokenizer import load as tokenizers
from fathom.training.events import Evaluated, Event, Note, Prepared, Report, silent
from fathom.training.loop import evaluate, fit
from fathom.training.presets import Recipe
from fathom.training.run import Run, created, open_run, recipe_of
from fathom.training.session import Session
from fathom.training.shown import shown
from fathom.words import counted, duration

PROBE = 6  # timed steps, of which the first half warms up
FEWEST = 20  # with fewer steps a ladder shows nothing
REPORT_SECONDS = 12.0  # reserved for the report
SLACK = 0.88  # share of the time left that is planned; speed varies


@dataclass(frozen=True)
class Cost:
    """Seconds of a step and of an evaluation of a rung on this machine."""

    step: float
    evaluation: float

    def run(self, steps: int, evaluations: int) -> float:
        """Seconds of a whole run."""
        return steps * self.step + evaluations * self.evaluation


def measure(rung: Rung, options: LadderOptions, batches: Batches | MixedBatches, validation: Sequence[Tensor]) -> Cost:
    """Time a few steps and an evaluation of this rung, with a model that is then discarded."""
    frozen = replace(options, learning_rate=1e-9, muon_learning_rate=1e-9)  # cannot diverge
    session, moments = Session.start(rung.config, frozen.training(options.seed, PROBE)), [time.perf_counter()]
    with taken_out(rung, session.model):
        fit(session, batches, validation[:1], lambda event: moments.append(time.perf_counter()))
    some, start = validation[:2], time.perf_counter()
    evaluate(session.model, some, session.precision)
    evaluation = (time.perf_counter() - start) * len(validation) / len(some)
    return Cost(median(after - before for before, after in pairwise(moments[PROBE // 2 :])), evaluation)


@contextmanager
def fastest_threads(
    rung: Rung, options: LadderOptions, batches: Batches | MixedBatches, validation: Sequence[Tensor]
) -> Iterator[int]:
    """Inside, torch uses one thread where that trains this rung faster than all threads, as with small models."""
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
    """Steps of every run, so that all runs with all their evaluations fit into these seconds."""
    per_step = options.seeds * sum(cost.step for cost in costs.values())
    evaluations = options.evaluations + options.seeds  # the first seed's curve, and each seed's end
    fixed = evaluations * sum(cost.evaluation for cost in costs.values())
    steps = int((SLACK * seconds - fixed) / per_step)
    if steps < FEWEST:
        needed = (fixed + FEWEST * per_step) / SLACK + 60 * options.minutes - seconds
        raise FathomError(
            f"minutes={options.minutes:g} is too short for {counted(len(costs), 'model')} with"
            f" {counted(options.seeds, 'seed')}; {FEWEST} steps of each take"
            f" {duration(needed)} here; give more minutes, or fewer rungs or seeds"
        )
    return steps - steps % options.evaluations if steps > options.evaluations else steps


class LadderProgress:
    """Which model of how many is trained, and the time left: what is planned, at the pace so far."""

    def __init__(self, total: float, report: Report) -> None:
        self.total, self.report, self.before, self.start = total, report, 0.0, time.monotonic()

    def part(self, seconds: float, what: str, place: int, of: int) -> Callable[[float], None]:
        """A callback for the next model, planned to take `seconds`: call it with the fraction done, 0 to 1."""
        before, self.before = self.before, self.before + seconds

        def report_fraction(fraction: float) -> None:
            done = before + fraction * seconds
            pace = (time.monotonic() - self.start) / done if done > PACE_AFTER * self.total else 1.0
            self.report(Prepared(what, place, of, left=pace * (self.total - done)))

        return report_fraction


PACE_AFTER = 0.02  # of the plan must be done before its pace is known
SAMPLE_TOKENS = 200
Stop = Callable[[], bool]


def never() -> bool:
    return False


@dataclass(frozen=True)
class Setup:
    """What all runs of a ladder share."""

    folder: Path
    run: Run  # the text as tokens, and its tokenizer
    validation: list[Tensor]  # chunks of windows (b, t + 1)
    report: Report
    stop: Stop

    def batches(self, options: LadderOptions, seed: int) -> Batches | MixedBatches:
        return text_batches(self.run.texts(), options.context_length, options.batch_size, seed)

    def fastest_threads(self, options: LadderOptions) -> AbstractContextManager[int]:
        """Measured with the top rung, which takes most of the time."""
        top = rungs(self.run.tokenizer.vocab_size, options.context_length, options.d_model)[-1]
        return fastest_threads(top, options, self.batches(options, options.seed), self.validation)


def ladder(
    options: LadderOptions | None = None,
    folder: str | Path = "runs/ladder",
    overwrite: bool = False,
    report: Report | None = None,
    stop: Stop | None = None,
    **changes: Any,
) -> LadderResult:
    """Train every rung from a bigram to LLaMA, and GPT and LLaMA without one idea each, with every seed.

        >>> result = fathom.ladder(folder="runs/ladder", data="my.txt", minutes=5, seeds=3)

    options, or any field of LadderOptions by name: data, tokenizer, rungs, seed, seeds, minutes (for the whole ladder),
    steps (of every rung), context_length (tokens), d_model, batch_size (rows), learning_rate, ... folder: where models
    and ladder.json go; `overwrite` replaces what is there. report: called with each event. stop: asked at every step.

    Returns the measurements, `.gain(key)` of a rung and `.worth(take_away)` among them. Ends early, with
    the results so far, when `stop()` is true or the minutes are up. FathomError: a wrong option, or too few minutes for
    any result.
    """
    options, folder = build(LadderOptions, plain(options or LadderOptions()) | changes, "ladder"), Path(folder)
    stop = stop or never
    keep_freed_memory()
    end = time.monotonic() + 60 * options.minutes - REPORT_SECONDS
    find(options.rungs, everything(1))
    with ExitStack() as stack:
        listener = stack.enter_context(shown(report, folder))
        with created(recipe(options), folder, overwrite, listener) as run:
            setup = set_up(run, options, listener, until(end, stop))
            stack.enter_context(setup.fastest_threads(options))
            result = empty_result(options, setup)
            costs = measure_all(result, setup)
            steps = options.steps or plan(costs, options, end - time.monotonic())
        setup = replace(setup, folder=folder, run=replace(run, folder=folder))
        return train_missing(replace(result, steps=steps), setup, costs)


def resume(folder: Path, minutes: float, report: Report = silent, stop: Stop = never) -> LadderResult:
    """Train the missing runs of the ladder in `folder`, with its own text, settings and steps."""
    keep_freed_memory()
    end = time.monotonic() + 60 * minutes - REPORT_SECONDS
    result = read(folder)
    setup = set_up(open_run(folder), result.options, report, until(end, stop))
    with setup.fastest_threads(result.options):
        return train_missing(result, setup, measure_all(result, setup))


def until(end: float, stop: Stop) -> Stop:
    return lambda: stop() or time.monotonic() > end


def recipe(options: LadderOptions) -> Recipe:
    """The folder of a ladder is the run folder of its top rung, without checkpoints."""
    top = rungs(1, options.context_length, options.d_model)[-1].config
    whole = recipe_of(top, options.training(options.seed, options.steps or 1))
    model = {name: value for name, value in whole.model.items() if name != "vocab_size"}
    return Recipe(model=model, train=whole.train)


def set_up(run: Run, options: LadderOptions, report: Report, stop: Stop) -> Setup:
    windows = eval_windows(run.tokens("val"), options.context_length, options.eval_windows)
    return Setup(run.folder, run, list(windows), report, stop)


def empty_result(options: LadderOptions, setup: Setup) -> LadderResult:
    """A ladder without runs: the text, the machine and the baselines."""
    data, vocab_size = setup.run.data, setup.run.tokenizer.vocab_size
    text = Text(data.corpus, data.fingerprint, vocab_size, data.n_train, data.n_val, data.val_characters)
    counted = references(setup.run.tokens("train"), setup.validation, vocab_size)
    return LadderResult(options, text, describe(pick_device(options.device)), 0, counted)


def measure_all(result: LadderResult, setup: Setup) -> dict[str, Cost]:
    """The cost of each rung on this machine."""
    costs: dict[str, Cost] = {}
    batches = setup.batches(result.options, result.options.seed)
    for rung in result.models:
        costs[rung.key] = measure(rung, result.options, batches, setup.validation)
        setup.report(Prepared("models timed", len(costs), len(result.models)))
    return costs


def train_missing(result: LadderResult, setup: Setup, costs: Mapping[str, Cost]) -> LadderResult:
    """Train the missing runs, seed by seed, each from the bottom rung."""
    write(result, setup.folder)
    missing = [
        (seed, rung)
        for seed in result.options.all_seeds
        for rung in result.models
        if seed not in result.losses(rung.key)
    ]
    seconds = [costs[rung.key].run(result.steps, evaluations(rung, seed, result.options)) for seed, rung in missing]
    progress = LadderProgress(sum(seconds), setup.report)
    for (seed, rung), planned in zip(missing, seconds):
        steps = [*result.ladder, *result.beside]
        kind, group = ("rung", steps) if rung.idea else ("take-away", result.take_aways)
        what = f"seed {seed - result.options.seed + 1}/{result.options.seeds}, {kind}"
        part = progress.part(planned, what, group.index(rung) + 1, len(group))
        trained = train(rung, seed, result, setup, part)
        if setup.stop() and trained is None:
            break
        if trained is not None:
            result = result.with_run(trained)
            write(result, setup.folder)
    return result


def has_curve(rung: Rung, seed: int, options: LadderOptions) -> bool:
    """Whether this run is evaluated along the way too: the first seed's, for the learning curves."""
    return rung.idea is not None and seed == options.seed


def evaluations(rung: Rung, seed: int, options: LadderOptions) -> int:
    """How often this run is evaluated, step 0 included."""
    return options.evaluations + 1 if has_curve(rung, seed, options) else 1


def train(
    rung: Rung, seed: int, result: LadderResult, setup: Setup, progress: Callable[[float], None]
) -> Trained | None:
    """One run; `progress` is called with the fraction done. None where it was stopped or diverged."""
    curve = has_curve(rung, seed, result.options)
    session = Session.start(rung.config, result.options.training(seed, result.steps, curve))
    points = {0: evaluate(session.model, setup.validation, session.precision)} if curve else {}

    def listen(event: Event) -> None:
        progress(session.progress)
        if isinstance(event, Evaluated):
            points[event.step] = event.loss

    try:
        with taken_out(rung, session.model):
            fit(session, setup.batches(result.options, seed), setup.validation, listen, stop=setup.stop)
    except Diverged as problem:
        setup.report(Note(f"{rung.title}, seed {seed}: {problem}", warning=True))
    if not session.finished:
        return None
    peeking = None
    if rung.peeks:  # with the mask back in place: what it can do where no later token exists
        peeking, points[session.step] = (
            points[session.step],
            evaluate(session.model, setup.validation, session.precision),
        )
    setup.report(Note(f"{rung.title}, seed {seed}: validation loss {points[session.step]:.4f}"))
    folder = save_model(session, rung, seed, setup)
    text = sample(session, seed, setup) if curve else None
    return Trained(rung.key, seed, tuple(points), tuple(points.values()), session.seconds, folder, text, peeking)


def taken_out(rung: Rung, model: Transformer) -> AbstractContextManager[object]:
    """Inside, the model's attention computes what this rung says."""
    return swap(model, attend=rung.attend) if rung.attend else nullcontext()


def save_model(session: Session, rung: Rung, seed: int, setup: Setup) -> str:
    """Write the trained model as a folder that `fathom generate` opens; returns it, from the folder of the ladder.

    "", and nothing written, where the model computes something that no config says.
    """
    if rung.attend:
        return ""
    folder = setup.folder / folder_of(rung.key, seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder / CONFIG, {"model": plain(session.model.config), "train": plain(session.options)})
    tokenizers.save(setup.run.tokenizer, folder / tokenizers.FILE)
    write_weights(session.model, folder / WEIGHTS)
    return folder_of(rung.key, seed)


def sample(session: Session, seed: int, setup: Setup) -> str:
    """Text generated after the first token of the validation text."""
    first = [int(setup.validation[0][0, 0])]
    options = GenerateOptions(max_new_tokens=SAMPLE_TOKENS, temperature=0.8, seed=seed)
    session.model.eval()
    return generate(session.model, setup.run.tokenizer, [first], options)[0].text
