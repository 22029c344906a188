"""`fathom train`, `fathom finetune` and `fathom presets`; and a run on the terminal, as it happens."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

from fathom.cli.options import fields_of, from_fields, print_json, verb
from fathom.errors import FathomError
from fathom.fields import plain
from fathom.model.config import ModelConfig
from fathom.report.live import LiveView
from fathom.training.events import Evaluated, Event, Note, Prepared, Progress, Report, Sample, Saved
from fathom.training.options import SET_BY_BASE, FinetuneOptions, TrainOptions
from fathom.training.presets import DEFAULT, PRESETS, Recipe, find, read

if TYPE_CHECKING:
    from fathom.training.train import Result

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
OUT_DIR = ("--out-dir", "--output-dir", "-o", "out_dir")


@verb("train", f"Train a model from random weights. PRESET (default {DEFAULT}) is a name from `fathom presets`.")
@click.argument("preset", required=False)
@click.option(*OUT_DIR, type=click.Path(path_type=Path), help="runs/PRESET")
@click.option("-c", "--config", "files", multiple=True, type=click.Path(path_type=Path), help="YAML; later ones win.")
@click.option("--resume", is_flag=True, help="Continue the run in --out-dir from where it stopped.")
@click.option("--overwrite", is_flag=True, help="Replace the run in --out-dir.")
@click.option("--grad-accumulation", type=click.IntRange(1), help="Forward passes per step (batch_size is divided).")
@from_fields("train", TrainOptions, TRAIN_NAMES)
@from_fields("model", ModelConfig, MODEL_NAMES)
def train_command(preset: str | None, **call: Any) -> int:
    from fathom.training.train import train

    recipe, folder, mode = read_call(preset, call)
    with watching(folder) as report:
        result = train(recipe, folder, mode=mode, report=report)
    if call["as_json"]:
        print_json(plain(result))
    else:
        click.echo(summary(result, "train", [f"write:    fathom generate {folder} -n 400 -t 0.8"]), err=True)
    return result.exit_code


def read_call(preset: str | None, call: Mapping[str, Any]) -> tuple[Recipe, Path, str]:
    """Recipe, folder and mode. A resumed run gets only what this call gives."""
    mode = mode_of(call)
    name = preset or (None if call["files"] else DEFAULT)
    recipe = find(name) if name and not call["resume"] else Recipe()
    for file in call["files"]:
        recipe = read(file, recipe)
    recipe = recipe.changed(fields_of("model", call), fields_of("train", call) | common_options(call))
    if call["grad_accumulation"]:
        recipe = recipe.changed({}, {"micro_batch_size": micro_batch(recipe, call)})
    return recipe, call["out_dir"] or Path("runs") / (name or call["files"][-1].stem), mode


def mode_of(call: Mapping[str, Any]) -> str:
    if call["resume"] and call["overwrite"]:
        raise FathomError("--resume and --overwrite were both given; a run is either continued or replaced: choose one")
    return "resume" if call["resume"] else "overwrite" if call["overwrite"] else "new"


def common_options(call: Mapping[str, Any]) -> dict[str, Any]:
    """The options of all verbs that are fields of TrainOptions."""
    return {key: call[key] for key in ("seed", "device", "dtype") if call[key] is not None}


def micro_batch(recipe: Recipe, call: Mapping[str, Any]) -> int:
    """Sequences per forward pass, for the requested number of passes per step."""
    passes, batch = call["grad_accumulation"], recipe.options().batch_size
    if call["resume"]:
        raise FathomError("--grad-accumulation was given with --resume; a resumed run keeps its own: leave it out")
    if batch % passes:
        raise FathomError(f"--grad-accumulation {passes} does not divide the batch size {batch}; change one")
    return int(batch // passes)


def summary(result: "Result", verb: str, next_lines: list[str]) -> str:
    """Where everything is, and what to do next."""
    folder, stopped = result.folder, result.exit_code != 0
    loss = "" if result.validation_loss is None else f", validation loss {result.validation_loss:.4f}"
    done = f"{'stopped at' if stopped else 'done:'} step {result.step:,} of {result.steps:,}"
    lines = [
        f"{done} in {result.seconds:.1f} s, {result.tokens / max(result.seconds, 1e-9):,.0f} tokens/s{loss}",
        f"run:      {folder}",
        f"plot:     {folder / 'loss.png'}",
        f"continue: fathom {verb} --resume --out-dir {folder}" if stopped else "",
        *next_lines,
    ]
    return "\n".join(line for line in lines if line)


FINETUNE_NAMES = {
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
FINETUNE = """Train the model in MODEL further, whatever its format: an adapter on frozen weights (lora, dora), on
packed ones (qlora), or all weights (full). Of records in .json or .jsonl the answers are learned, of other files the
text."""


@verb("finetune", FINETUNE)
@click.argument("model", required=False)
@click.option(*OUT_DIR, type=click.Path(path_type=Path), help="runs/finetune")
@click.option("--resume", is_flag=True, help="Continue the run in --out-dir from where it stopped.")
@click.option("--overwrite", is_flag=True, help="Replace the run in --out-dir.")
@click.option("--mask-prompt/--no-mask-prompt", default=None, help="Learn answers only, or all of each record.")
@click.option("--pack", is_flag=True, default=None, help="Short examples share a row; none sees another.")
@click.option("--rslora", is_flag=True, default=None, help="Scale by alpha / sqrt(rank) instead of alpha / rank.")
@from_fields("finetune", FinetuneOptions, FINETUNE_NAMES, without=FLAGS)
@from_fields("train", TrainOptions, FINETUNE_TRAIN_NAMES, without=SET_BY_BASE)
def finetune_command(model: str | None, **call: Any) -> int:
    from fathom.training.finetune import finetune

    mode, folder = mode_of(call), call["out_dir"] or Path("runs") / "finetune"
    options = fields_of("finetune", call) | {name: call[name] for name in FLAGS if call[name] is not None}
    train = fields_of("train", call) | common_options(call)
    with watching(folder) as report:
        result = finetune(model, None, folder, options=options, train=train, mode=mode, report=report)
    if call["as_json"]:
        print_json(plain(result))
    else:
        click.echo(summary(result, "finetune", adapter_lines(folder / "adapter", model)), err=True)
    return result.exit_code


def adapter_lines(adapter: Path, model: str | None) -> list[str]:
    """What can be done with the run of an adapter, or of all weights."""
    ask = f"ask:      fathom chat {adapter.parent}"
    if not adapter.exists():
        return [ask]
    merge = f"merge:    fathom merge {model} {adapter} -o MERGED" if model else ""
    return [f"adapter:  {adapter} (in PEFT's format)", ask, merge]


@verb("presets", "List the presets of `train`, or print one as YAML ready for `train -c FILE`.")
@click.argument("name", required=False)
def presets_command(name: str | None, as_json: bool, **_: Any) -> None:
    values: dict[str, Any] = {key: recipe.description for key, recipe in PRESETS.items()}
    text = "\n".join(f"{key:<18} {description}" for key, description in values.items())
    if name is not None:
        recipe = find(name)
        values = recipe.sections()
        text = f"# {recipe.description}\n{yaml.safe_dump(values, sort_keys=False)}".rstrip()
    if as_json:
        print_json(values)
    else:
        click.echo(text)


@contextmanager
def watching(title: str | Path) -> Iterator[Report]:
    """A listener that shows a run in the live view, on stderr, until the block ends."""
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
