"""`fathom train [PRESET]`: a model from random weights, watched while it learns."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fathom.cli.options import answer, from_fields, said, verb
from fathom.errors import FathomError
from fathom.ladder.rungs import recipes
from fathom.model.config import ModelConfig
from fathom.train.options import TrainOptions
from fathom.train.presets import DEFAULT
from fathom.train.recipes import Recipe, find, read

if TYPE_CHECKING:
    from fathom.train.train import Result

MODEL_NAMES = {"context_length": ("--block-size", "--context-length", "--max-seq-len")}
TRAIN_NAMES = {
    "data": ("--data",),
    "tokenizer": ("--tokenizer",),
    "max_iters": ("--max-iters", "--iters", "--max-steps", "--num-iterations"),
    "max_minutes": ("--max-minutes",),
    "batch_size": ("--batch-size",),
    "learning_rate": ("--lr", "--learning-rate"),
    "eval_interval": ("--eval-interval",),
    "compile": ("--compile",),
}


@verb("train", f"Train a model from random weights. PRESET (default {DEFAULT}) is a name from `fathom presets`.")
@click.argument("preset", required=False)
@click.option("--out-dir", "--output-dir", "-o", "out_dir", type=click.Path(path_type=Path), help="runs/PRESET")
@click.option("-c", "--config", "files", multiple=True, type=click.Path(path_type=Path), help="YAML; later ones win.")
@click.option("--resume", is_flag=True, help="Go on where the run in --out-dir stopped.")
@click.option("--overwrite", is_flag=True, help="Replace the run in --out-dir.")
@click.option("--grad-accumulation", type=click.IntRange(1), help="Forward passes per step (batch_size is divided).")
@from_fields("train", TrainOptions, TRAIN_NAMES)
@from_fields("model", ModelConfig, MODEL_NAMES)
def command(preset: str | None, **call: Any) -> int:
    from fathom.cli.watch import watching
    from fathom.train.train import train

    recipe, folder, mode = read_call(preset, call)
    with watching(folder) as report:
        result = train(recipe, folder, mode=mode, report=report)
    if call["as_json"]:
        answer(result.plain())
    else:
        click.echo(summary(result), err=True)
    return result.exit_code


def read_call(preset: str | None, call: Mapping[str, Any]) -> tuple[Recipe, Path, str]:
    """Recipe, folder and mode. A resumed run is asked only for what was said in this call."""
    if call["resume"] and call["overwrite"]:
        raise FathomError("--resume and --overwrite were both given; a run is gone on with or replaced, choose one")
    named = preset or (None if call["files"] else DEFAULT)
    recipe = find(named, recipes()) if named and not call["resume"] else Recipe()
    for file in call["files"]:
        recipe = read(file, recipe)
    machine = {key: call[key] for key in ("seed", "device", "dtype") if call[key] is not None}
    recipe = recipe.changed(said("model", call), said("train", call) | machine)
    if call["grad_accumulation"]:
        recipe = recipe.changed({}, {"micro_batch_size": micro_batch(recipe, call)})
    name = named or call["files"][-1].stem
    mode = "resume" if call["resume"] else "overwrite" if call["overwrite"] else "new"
    return recipe, call["out_dir"] or Path("runs") / name, mode


def micro_batch(recipe: Recipe, call: Mapping[str, Any]) -> int:
    """Sequences per forward pass, so that there are as many passes per step as was said."""
    passes, batch = call["grad_accumulation"], recipe.options().batch_size
    if call["resume"]:
        raise FathomError("--grad-accumulation was given with --resume; a resumed run keeps its own: leave it out")
    if batch % passes:
        raise FathomError(f"--grad-accumulation {passes} does not divide the batch size {batch}; change one")
    return int(batch // passes)


def summary(result: "Result") -> str:
    """Where everything lies, and what to do next."""
    folder, stopped = result.folder, result.exit_code != 0
    loss = "" if result.validation_loss is None else f", validation loss {result.validation_loss:.4f}"
    done = f"{'stopped at' if stopped else 'done:'} step {result.step:,} of {result.steps:,}"
    lines = [
        f"{done} in {result.seconds:.1f} s, {result.tokens / max(result.seconds, 1e-9):,.0f} tokens/s{loss}",
        f"run:      {folder}",
        f"plot:     {folder / 'loss.png'}",
        f"go on:    fathom train --resume --out-dir {folder}" if stopped else "",
        f"write:    fathom generate {folder} -n 400 -t 0.8",
    ]
    return "\n".join(line for line in lines if line)
