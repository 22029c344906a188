"""`fathom.train`: from a recipe to a run folder with a trained model in it, or on from where a run stopped.

Ties the rooms together: run (folder, data), loop (steps), checkpoints (what survives), events (what is said). Every
number that is reported was measured here.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fathom.data.batches import Batch
from fathom.errors import FathomError
from fathom.fields import build
from fathom.formats import checkpoint
from fathom.formats.config_file import CONFIG, write_config
from fathom.generate.generate import generate
from fathom.generate.options import GenerateOptions
from fathom.machine import keep_freed_memory
from fathom.report.plot import loss_curve, save
from fathom.train import events
from fathom.train.checkpoints import restore, save_checkpoint
from fathom.train.events import Evaluated, Event, Metrics, Note, Progress, Report, Sample, silent, together
from fathom.train.loop import fit
from fathom.train.options import TrainOptions
from fathom.train.preflight import notes
from fathom.train.presets import DEFAULT, PRESETS, Recipe, find
from fathom.train.run import METRICS, Run, created, open_run
from fathom.train.session import Session
from fathom.train.signals import Stop, stop_on_signal


@dataclass(frozen=True)
class Result:
    """How a run ended. Losses in nats per token; seconds count everything since step 1, saves and samples too."""

    folder: Path
    step: int
    steps: int
    loss: float | None
    validation_loss: float | None
    bits_per_character: float | None
    bits_per_byte: float | None
    tokens: int
    seconds: float
    exit_code: int  # 0 done, 130 or 143 stopped by Ctrl-C or SIGTERM

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def train(
    recipe: str | Recipe = DEFAULT,
    out_dir: str | Path | None = None,
    *,
    model: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    mode: str = "new",
    report: Report = silent,
) -> Result:
    """Train a model in a run folder (default runs/NAME).

    recipe: a preset's name or a Recipe; model, options: fields of ModelConfig and TrainOptions said otherwise.
    mode: new (the folder must not exist), overwrite, or resume (what is said may change
    nothing but how long and how often; a preset's name is not looked at). Raises FathomError, with nothing lost.
    """
    keep_freed_memory()
    if mode not in ("new", "overwrite", "resume"):
        raise FathomError(f"mode is {mode!r}; choose one of new, overwrite, resume")
    name, chosen = (recipe, find(recipe, PRESETS)) if isinstance(recipe, str) else ("run", recipe)
    folder = Path(out_dir or Path("runs") / name)
    if mode == "resume":
        said = Recipe() if isinstance(recipe, str) else chosen
        return go_on(*resumed(folder, said.changed(model or {}, options or {}), report), report)
    with created(chosen.changed(model or {}, options or {}), folder, mode == "overwrite", report) as run:
        if run.options.tensorboard:
            events.require_tensorboard()
        session = Session.start(run.config, run.options)  # what it refuses is refused while nothing is in place
    return go_on(replace(run, folder=folder), session, report)


Before = Callable[[Any, Session, Sequence[Tensor | Batch]], Iterable[Event]]


def go_on(run: Run, session: Session, report: Report, before: Before = notes) -> Result:
    """Train from where the session stands to the end of the run, or to a signal. `before`: what is said first."""
    batches, validation = run.batches(), run.validation()
    with stop_on_signal() as stop:
        try:
            with recording(run, session, report) as told:
                if session.step == 0:
                    for event in before(run, session, validation):
                        told(event)
                fit(session, batches, validation, told, lambda s: save_checkpoint(run, s, told), stop.asked)
        finally:
            draw(run)
    return result(run, session, stop)


@contextmanager
def recording(run: Run, session: Session, report: Report) -> Iterator[Report]:
    """A listener that adds what the loop does not know, tells `report`, and keeps the figures in the run folder."""
    with ExitStack() as stack:
        listeners: list[Report] = [stack.enter_context(closing(Metrics(run.folder / METRICS, session.step))), report]
        if run.options.tensorboard:
            board = events.TensorBoard(run.folder / "tensorboard", session.step)
            listeners.append(stack.enter_context(closing(board)))
        tell = together(listeners)

        def listen(event: Event) -> None:
            tell(in_bits(run, event) if isinstance(event, Evaluated) else event)
            if isinstance(event, Progress) and sample_due(run.options, event.step):
                tell(Sample(event.step, write_sample(run, session)))

        yield listen


def in_bits(run: Run, event: Evaluated) -> Evaluated:
    return Evaluated(event.step, event.loss, seconds=event.seconds, **bits(run, event.loss))


def bits(run: Run, loss: float) -> dict[str, float]:
    """Nats per token as bits per character and per byte: figures that models with different tokenizers share."""
    total = loss / math.log(2) * run.facts.n_val
    return {
        "bits_per_character": total / run.facts.val_characters,
        "bits_per_byte": total / run.facts.val_bytes,
    }


def sample_due(options: TrainOptions, step: int) -> bool:
    return options.sample_interval is not None and step % options.sample_interval == 0


def write_sample(run: Run, session: Session) -> str:
    """A few lines by the model as it is; draws from a generator of its own, so that training does not notice."""
    options = run.options
    choices = GenerateOptions(max_new_tokens=options.sample_tokens, temperature=0.8, seed=options.seed)
    with torch.compiler.set_stance("force_eager"):  # every token has another shape: nothing to compile for
        (written,) = generate(session.model, run.tokenizer, [run.prompt()], choices)
    return written.text


def draw(run: Run) -> None:
    """The loss so far, as loss.png and loss.svg."""
    training, validation = events.curves(events.read(run.folder / METRICS))
    for kind in ("png", "svg"):
        figure = loss_curve(training, validation, references={"guessing": math.log(run.config.vocab_size)})
        save(figure, run.folder / f"loss.{kind}")


def result(run: Run, session: Session, stop: Stop) -> Result:
    """How it ended."""
    training, validation = events.curves(events.read(run.folder / METRICS))
    last = validation[-1][1] if validation else None
    return Result(
        folder=run.folder,
        step=session.step,
        steps=run.options.max_iters,
        loss=training[-1][1] if training else None,
        validation_loss=last,
        **({"bits_per_character": None, "bits_per_byte": None} if last is None else bits(run, last)),
        tokens=session.tokens,
        seconds=session.seconds,
        exit_code=128 + stop.requested if stop.requested else 0,
    )


LATER: tuple[str, ...] = (
    "max_iters",
    "max_minutes",
    "eval_interval",
    "sample_interval",
    "sample_tokens",
    "sample_prompt",
)
LATER += (
    "checkpoint_interval",
    "keep",
    "tensorboard",
    "device",
    "compile",
    "checkpoint_blocks",
)  # may be said otherwise when resuming


def resumed(folder: Path, said: Recipe, report: Report) -> tuple[Run, Session]:
    """The run in `folder` and a session that stands where its newest good checkpoint was made."""
    run = open_run(folder)
    for section, values, now in (("model", said.model, run.config), ("train", said.train, run.options)):
        refuse_other(folder, section, values, now)
    options = build(TrainOptions, {**asdict(run.options), **said.train}, "train")
    run = replace(run, options=options)
    session = Session.start(run.config, options)
    stand(run, session, report)
    return run, session


def refuse_other(folder: Path, section: str, values: Mapping[str, Any], now: Any) -> None:
    """FathomError where a resuming call says other than what the run in `folder` was made with."""
    wanted = build(type(now), {**asdict(now), **values}, section)
    for name in values:
        name = name.replace("-", "_")
        if name not in LATER and getattr(wanted, name) != getattr(now, name):
            raise FathomError(
                f"{folder} was made with {name}={getattr(now, name)!r}, not {getattr(wanted, name)!r}; a resumed "
                f"run keeps its choices: leave it out, or train anew in another --out-dir"
            )


def stand(run: Run, session: Session, report: Report) -> None:
    """Put a new session where the run's newest good checkpoint was made."""
    write_config(run.folder / CONFIG, run.plain())  # what was said now holds for the next resume too
    if not checkpoint.newest_first(run.checkpoints):
        report(Note(f"{run.folder} has no checkpoint yet: starting at step 1"))
        return
    found = restore(run, session, report)
    for path, why in found.skipped:
        report(Note(f"{path} is damaged and was passed over: {why}", warning=True))
    report(Note(f"resuming {run.folder} at step {session.step:,}"))
