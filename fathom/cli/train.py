"""`fathom train [PRESET]`: a model from random weights, watched while it learns."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fathom.cli.options import fields_of, from_fields, print_json, verb
from fathom.errors import FathomError
from fathom.ladder.rungs import recipes
from fathom.model.config import ModelConfig
from fathom.train.options import TrainOptions
from fathom.train.presets import DEFAULT, Recipe, find, read

if TYPE_CHECKING:
    from fathom.train.train import Result
from collections.abc import Iterator
from contextlib import contextmanager

import yaml

from fathom.report.live import LiveView
from fathom.train.events import Evaluated, Event, Note, Prepared, Progress, Report, Sample, Saved
from fathom.train.options import SAID_BY_MODEL, FinetuneOptions

# A training run on the terminal: its events go to the live view, on stderr.


@contextmanager
def watching(title: str | Path) -> Iterator[Report]:
    """A listener that draws what it is told until the block ends."""
    with LiveView(str(title)) as view:

        def show(event: Event) -> None:
            match event:
                case Note():
                    view.note(event.text, event.warning)
                case Prepared():
                    view.prepared(event.what, event.done, event.total)
                case Progress():
                    view.progress(
                        event.step,
                        event.steps,
                        loss=event.loss,
                        tokens=event.tokens,
                        seconds=event.seconds,
                        learning_rate=event.learning_rate,
                    )
                case Evaluated():
                    view.evaluated(event.step, event.loss, event.bits_per_character)
                case Sample():
                    view.sample(event.step, event.text)
                case Saved():
                    view.saved(event.step, event.path)

        yield show


# `fathom presets [NAME]`: which presets there are, or one of them as YAML that `train -c` reads back.


@verb("presets", "List the presets of `train`, or print one as YAML ready for `train -c FILE`.")
@click.argument("name", required=False)
def presets_command(name: str | None, as_json: bool, **_: Any) -> None:
    known = recipes()
    if name is None:
        chosen = {key: recipe.about for key, recipe in known.items()}
        text = "\n".join(f"{key:<18} {about}" for key, about in chosen.items())
    else:
        recipe = find(name, known)
        chosen, text = recipe.plain(), f"# {recipe.about}\n{yaml.safe_dump(recipe.plain(), sort_keys=False)}".rstrip()
    if as_json:
        print_json(chosen)
    else:
        click.echo(text)


# `fathom finetune MODEL --data FILE`: a model that exists, trained further, watched while it learns.

NAMES = {
    "method": ("--method",),
    "val_data": ("--val-data",),
    "context_length": ("--block-size", "--context-length", "--max-seq-len"),
    "epochs": ("--epochs",),
    "rank": ("-r", "--rank", "--lora-r", "--lora-rank"),
    "alpha": ("--alpha", "--lora-alpha"),
    "dropout": ("--dropout", "--lora-dropout"),
    "target": ("--target", "--targets"),
    "ranks": ("--ranks",),
    "init": ("--init",),
    "lora_plus": ("--lora-plus",),
    "quantize": ("--quantize",),
}
FLAGS = ("mask_prompt", "pack", "rslora")
FINETUNE_TRAIN_NAMES = {
    "data": ("--data",),
    "max_iters": ("--max-iters", "--iters", "--max-steps", "--num-iterations"),
    "max_minutes": ("--max-minutes",),
    "batch_size": ("--batch-size",),
    "micro_batch_size": ("--micro-batch-size",),
    "learning_rate": ("--lr", "--learning-rate"),
    "eval_interval": ("--eval-interval",),
}
ABOUT = """Train the model in MODEL further, whatever its format: an adapter on frozen weights (lora, dora), on packed
ones (qlora), or all weights (full). Of records in .json or .jsonl the answers are learned, of other files the text."""


@verb("finetune", ABOUT)
@click.argument("model", required=False)
@click.option("--out-dir", "--output-dir", "-o", "out_dir", type=click.Path(path_type=Path), help="runs/finetune")
@click.option("--resume", is_flag=True, help="Go on where the run in --out-dir stopped.")
@click.option("--overwrite", is_flag=True, help="Replace the run in --out-dir.")
@click.option("--mask-prompt/--no-mask-prompt", default=None, help="Learn answers only, or all of each record.")
@click.option("--pack", is_flag=True, default=None, help="Short examples share a row; none sees another.")
@click.option("--rslora", is_flag=True, default=None, help="Scale by alpha / sqrt(rank) instead of alpha / rank.")
@from_fields("finetune", FinetuneOptions, NAMES, without=FLAGS)
@from_fields("train", TrainOptions, FINETUNE_TRAIN_NAMES, without=SAID_BY_MODEL)
def finetune_command(model: str | None, **call: Any) -> int:
    pass  # import dropped
    from fathom.train.finetune import finetune

    if call["resume"] and call["overwrite"]:
        raise FathomError("--resume and --overwrite were both given; a run is gone on with or replaced, choose one")
    mode = "resume" if call["resume"] else "overwrite" if call["overwrite"] else "new"
    folder = call["out_dir"] or Path("runs") / "finetune"
    options, train = chosen(call)
    with watching(folder) as report:
        result = finetune(model, None, folder, options=options, train=train, mode=mode, report=report)
    if call["as_json"]:
        print_json(result.plain())
    else:
        click.echo(finetune_summary(result, model), err=True)
    return result.exit_code


def chosen(call: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the call says of FinetuneOptions and of TrainOptions."""
    flags = {name: call[name] for name in FLAGS if call[name] is not None}
    machine = {key: call[key] for key in ("seed", "device", "dtype") if call[key] is not None}
    return fields_of("finetune", call) | flags, fields_of("train", call) | machine


def finetune_summary(result: "Result", model: str | None) -> str:
    """Where everything lies, and what to do next."""
    folder, stopped = result.folder, result.exit_code != 0
    loss = "" if result.validation_loss is None else f", validation loss {result.validation_loss:.4f}"
    done = f"{'stopped at' if stopped else 'done:'} step {result.step:,} of {result.steps:,}"
    adapter = folder / "adapter"
    lines = [
        f"{done} in {result.seconds:.1f} s, {result.tokens / max(result.seconds, 1e-9):,.0f} tokens/s{loss}",
        f"run:      {folder}",
        f"plot:     {folder / 'loss.png'}",
        f"adapter:  {adapter} (of peft's format)" if adapter.exists() else "",
        f"go on:    fathom finetune --resume --out-dir {folder}" if stopped else "",
        f"ask:      fathom chat {folder}",
        f"merge:    fathom merge {model} {adapter} -o MERGED" if adapter.exists() and model else "",
    ]
    return "\n".join(line for line in lines if line)


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
def train_command(preset: str | None, **call: Any) -> int:
    pass  # import dropped
    from fathom.train.train import train

    recipe, folder, mode = read_call(preset, call)
    with watching(folder) as report:
        result = train(recipe, folder, mode=mode, report=report)
    if call["as_json"]:
        print_json(result.plain())
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
    recipe = recipe.changed(fields_of("model", call), fields_of("train", call) | machine)
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
