"""`fathom.train`: from a recipe to a run folder with a trained model in it, or from where a run stopped.

The life of a run: its folder, a session, the preflight, the loop with its checkpoints, its plot and its result. Every
number that is reported was measured here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from fathom.errors import FathomError
from fathom.fields import build
from fathom.formats.config_file import CONFIG, write_config
from fathom.formats.run import METRICS
from fathom.machine import keep_freed_memory
from fathom.training.checkpoints import restore, save_checkpoint
from fathom.training.data import check_tokenizer
from fathom.training.events import Report, loss_curves, silent
from fathom.training.loop import fit
from fathom.training.options import TrainOptions
from fathom.training.preflight import preflight
from fathom.training.presets import DEFAULT, Recipe, find
from fathom.training.record import bits, recording
from fathom.training.result import Result
from fathom.training.run import Run, created, open_run
from fathom.training.session import Session
from fathom.training.shown import shown
from fathom.training.signals import Stop, stop_on_signal
from fathom.training.together import created_by_first, of_program, of_run, require_same, was_created_before
from fathom.training.trackers import require_packages
from fathom.training.world import World, joined

R = TypeVar("R", bound=Run)


def train(
    recipe: str | Recipe = DEFAULT,
    out_dir: str | Path | None = None,
    *,
    model: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    mode: str = "new",
    report: Report | None = None,
    **changes: Any,
) -> Result:
    """Train a model from random weights, in a run folder.

        >>> result = fathom.train("shakespeare-cpu", "runs/mine", data="mine.txt", max_minutes=5)
        >>> result.plot()

    recipe: the name of a preset (`fathom presets` lists them) or a Recipe. out_dir: the run's folder, default
    runs/NAME. model: fields of ModelConfig that replace the recipe's: d_model, n_layer, context_length (tokens) ...
    options, or any field of TrainOptions by name: data, tokenizer, max_iters (steps), max_minutes, batch_size (rows),
    learning_rate, seed, device ... mode: new (the folder must not exist), overwrite, or resume, where a preset's name
    is ignored and only how long and how often may change. report: called with each event, such as print; default: shown
    in a notebook, silent elsewhere.

    Returns a Result: `.folder`, `.validation_loss` (nats per token), `.history`, `.plot()`. FathomError, with nothing
    lost: a wrong option, no such data, a folder in use, or the loss diverges.
    """
    keep_freed_memory()
    require_mode(mode)
    name, chosen = (recipe, find(recipe)) if isinstance(recipe, str) else ("run", recipe)
    folder = Path(out_dir or Path("runs") / name)
    options = {**(options or {}), **changes}
    if mode == "resume":
        declared = (Recipe() if isinstance(recipe, str) else chosen).changed(model or {}, options)
        run = open_run(folder)
        require_unchanged(folder, "model", declared.model, run.config)
        run = with_options(run, declared.train)
    else:
        declared = chosen.changed(model or {}, options)
    device = run.options.device if mode == "resume" else declared.options().device
    with joined(device) as world, shown(report if world.first else silent, folder) as listener:
        require_several(world, declared.train)
        require_same(world, {**of_program(), "mode": mode, **declared.model, **declared.train})
        if mode != "resume" and was_created_before(world, folder):
            mode, run = "resume", open_run(folder)
        if mode == "resume":
            return continue_run(run, resume(run, listener, world), listener)
        if "tokenizer" in options:
            check_tokenizer(declared.options().data, options["tokenizer"])
        require_packages(declared.options().log or ())
        with created_by_first(world, lambda: created(declared, folder, mode == "overwrite", listener), open_run) as run:
            session = run.start(world)  # what it refuses is refused before the folder is in place
        return continue_run(replace(run, folder=folder), session, listener)


def require_several(world: World, declared: Mapping[str, Any]) -> None:
    """FathomError where a call declares how processes share a model, and there is one; a run may be resumed by one."""
    if world.size == 1 and (kind := declared.get("parallel", "auto")) != "auto":
        raise FathomError(
            f"parallel={kind} needs several processes, and this is one; start them with --nproc N, or with torchrun"
        )


def require_mode(mode: str) -> None:
    if mode not in ("new", "overwrite", "resume"):
        raise FathomError(f"mode is {mode!r}; choose one of new, overwrite, resume")


def continue_run(run: Run, session: Session, report: Report) -> Result:
    """Train from the session's step to the end of the run, or to a signal."""
    batches, validation = run.batches(), run.validation()
    with stop_on_signal() as stop, recording(run, session, report) as record:
        if session.step == 0:
            for event in preflight(run, session, validation):
                record(event)
        record.begin()
        fit(session, batches, validation, record, lambda s: save_checkpoint(run, s, record), stop.is_requested)
        record.end()
    return result(run, session, stop)


def result(run: Run, session: Session, stop: Stop) -> Result:
    """How it ended."""
    requested = int(session.world.largest(torch.tensor(stop.requested or 0)))
    session.world.barrier()  # the first process has written all that is read now
    training, validation = loss_curves(run.folder / METRICS)
    last = validation[-1][1] if validation else None
    return Result(
        folder=run.folder,
        step=session.step,
        steps=session.steps or session.step,
        loss=training[-1][1] if training else None,
        validation_loss=last,
        **({"bits_per_character": None, "bits_per_byte": None} if last is None else bits(run, last)),
        tokens=session.tokens,
        seconds=session.seconds,
        exit_code=128 + requested if requested else 0,
    )


MAY_CHANGE = ("max_iters", "max_minutes", "eval_interval", "sample_interval", "sample_tokens", "sample_prompt", "keep",
              "checkpoint_interval", "log", "tensorboard", "device", "compile", "parallel", "checkpoint_blocks",
              "keep_going")  # fmt: skip


def with_options(run: R, declared: Mapping[str, Any]) -> R:
    """The run with some of its TrainOptions changed; FathomError where they must not be."""
    require_unchanged(run.folder, "train", declared, run.options)
    options = build(TrainOptions, {**asdict(run.options), **declared}, "train")
    require_packages(options.log or ())
    return replace(run, options=options)


def require_unchanged(folder: Path, section: str, declared: Mapping[str, Any], saved: Any) -> None:
    """FathomError where a resuming call declares other values than the run in `folder` was created with."""
    wanted = build(type(saved), {**asdict(saved), **declared}, section)
    for name in (name.replace("-", "_") for name in declared):
        if name not in MAY_CHANGE and getattr(wanted, name) != getattr(saved, name):
            raise FathomError(
                f"{folder} was created with {name}={getattr(saved, name)!r}, not {getattr(wanted, name)!r}; a resumed "
                f"run keeps its choices: leave it out, or train in another --out-dir"
            )


def resume(run: Run, report: Report, world: World) -> Session:
    """A session where the newest intact checkpoint of the run was saved."""
    if world.first and run.data.shards:
        run.data.prepared().verify()
    require_same(world, of_run(run))
    session = run.start(world)
    if world.first:
        write_config(run.folder / CONFIG, run.settings())  # the next resume keeps what was changed now
    restore(run, session, report)
    return session
