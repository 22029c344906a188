"""`fathom train` and `fathom finetune`, and a run on the terminal, as it happens."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fathom.cli.command import WORDS, in_words
from fathom.cli.completion import models, presets
from fathom.cli.help import torch_device
from fathom.cli.launch import as_started, launch, starts_processes
from fathom.cli.options import WholeNumber, fields_of, from_fields, option, print_json, verb
from fathom.cli.streams import say
from fathom.data.shards import about_tokens
from fathom.errors import FathomError
from fathom.fields import build, plain
from fathom.formats.run import PAGE
from fathom.model.config import ModelConfig
from fathom.processes import this_process
from fathom.report.live import LiveView
from fathom.training.events import Report, silent
from fathom.training.optimizers import NAMES as OPTIMIZERS
from fathom.training.options import FINETUNE_DEFAULTS, SET_BY_BASE, FinetuneOptions, TrainOptions
from fathom.training.presets import DEFAULT, PRESETS, Recipe, find, read
from fathom.training.shown import showing
from fathom.training.tuning import effective as tuning_defaults
from fathom.words import counted

if TYPE_CHECKING:
    from fathom.training.result import Result

MODEL_NAMES = {"context_length": ("--context-length", "--block-size", "--max-seq-len")}
TRAIN_NAMES = {
    "data": ("--data",),
    "tokenizer": ("--tokenizer",),
    "max_iters": ("--max-iters", "--iters", "--max-steps", "--num-iterations"),
    "max_minutes": ("--max-minutes",),
    "batch_size": ("--batch-size",),
    "learning_rate": ("--lr", "--learning-rate"),
    "eval_interval": ("--eval-interval",),
    "compile": ("--compile",),
    "keep_going": ("--keep-going",),
    "log": ("--log",),
    "parallel": ("--parallel",),
    "seed": ("--seed",),
    "device": ("--device",),
    "dtype": ("--dtype",),
}
TRAIN_GROUPS = {
    "Data": "train__data train__tokenizer",
    "Size of the model": "model__context_length model__d_model model__n_layer model__n_head",
    "Training": "train__max_iters train__max_minutes train__batch_size train__learning_rate",
    "Run": "out_dir files resume overwrite nproc",
}
OUT_DIR = ("-o", "--out-dir", "--output-dir", "out_dir")
nproc_option = option(
    "--nproc", type=WholeNumber(1), metavar="N", shown="1", help="Processes of this machine that train together."
)
OPTIMIZER = {"choices": OPTIMIZERS, "metavar": "NAME"}
PASSES = "Forward passes per step, into which the batch is divided."
DECLARED = {name: {"shown": "the preset's"} for name in ("context_length", "d_model", "n_layer")}


def effective(values: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of `fathom train` with this preset, these files and these options."""
    call: dict[str, Any] = {"resume": False, "overwrite": False, "grad_accumulation": None, "out_dir": None}
    call |= {name: value for name, value in values.items() if "__" in name and isinstance(value, str)}
    files = [Path(file) for file in values.get("files") or ()] if isinstance(values.get("files"), list) else []
    preset = values.get("preset")
    recipe, folder, _ = read_call(preset if isinstance(preset, str) else None, call | {"files": files})
    sections = {"train": vars(recipe.options()), "model": vars(recipe.config(1).resolved())}
    found = {f"{section}__{name}": v for section, fields in sections.items() for name, v in fields.items()}
    return found | {"model__vocab_size": None, "out_dir": folder}


@verb(
    "train",
    f"Train a model from random weights. PRESET is a name that fathom presets lists  [default: {DEFAULT}].",
    groups=TRAIN_GROUPS,
    example=f"fathom train {DEFAULT} --data FILE.txt",
    effective=effective,
    hint="--data",
)
@click.argument("preset", required=False, shell_complete=presets)
@option(*OUT_DIR, type=click.Path(path_type=Path), metavar="FOLDER", shown="runs/PRESET", help="Folder of the run.")
@option("-c", "--config", "files", multiple=True, type=click.Path(path_type=Path), metavar="FILE", help="YAML file.")
@option("--resume", is_flag=True, help="Continue the run in --out-dir from where it stopped.")
@option("--overwrite", is_flag=True, help="Replace the run in --out-dir.")
@nproc_option
@option("--epochs", hidden=True, help="Refused, with the number of steps that it is.")
@option("--grad-accumulation", type=WholeNumber(1), metavar="N", heading="Steps and batches", shown="1", help=PASSES)
@from_fields("train", TrainOptions, TRAIN_NAMES, settings={"optimizer": OPTIMIZER})
@from_fields("model", ModelConfig, MODEL_NAMES, settings=DECLARED | {"vocab_size": {"shown": "the tokenizer's"}})
@click.pass_context
def train_command(ctx: click.Context, /, preset: str | None, **call: Any) -> int:
    recipe, folder, mode = read_call(preset, call)
    if starts_processes(call["nproc"]):
        return launch(ctx.meta[WORDS], call["nproc"], f"--resume --out-dir {folder}")
    from fathom.training.train import train

    with watching(folder) as report:
        options = {name: value for name, value in fields_of("train", call).items() if name == "tokenizer"}
        result = train(recipe, folder, options=options, mode=mode, report=report)
    return ended(result, call, "train", [f"write:    fathom generate {folder} -n 400 -t 0.8"])


def ended(result: "Result", call: Mapping[str, Any], verb: str, next_lines: list[str]) -> int:
    """Say how a run ended, once; returns the exit code."""
    if this_process().first and call["as_json"]:
        print_json(plain(result))
    elif this_process().first:
        say(summary(result, f"{verb}{as_started()}", next_lines), err=True)
    return result.exit_code


def read_call(preset: str | None, call: Mapping[str, Any]) -> tuple[Recipe, Path, str]:
    """Recipe, folder and mode. A resumed run gets only what this call gives."""
    mode = mode_of(call)
    name = preset or (None if call["files"] else DEFAULT)
    if preset is not None and preset not in PRESETS:
        refuse_preset(preset)
    recipe = find(name) if name and not call["resume"] else Recipe()
    for file in call["files"]:
        recipe = read(file, recipe)
    recipe = recipe.changed(fields_of("model", call), fields_of("train", call))
    if call.get("epochs") is not None:
        refuse_epochs(recipe, call["epochs"])
    if call["grad_accumulation"]:
        recipe = recipe.changed({}, {"micro_batch_size": micro_batch(recipe, call)})
    return recipe, call["out_dir"] or Path("runs") / (name or call["files"][-1].stem), mode


def refuse_preset(name: str) -> None:
    """FathomError for text to learn or a YAML file in the place of a preset."""
    if Path(name).suffix in (".yaml", ".yml"):
        raise FathomError(f"{name} is a file, not a preset; did you mean -c {name}?")
    if "://" in name:
        about_tokens(name, 1)  # refuses it
    if Path(name).exists() or Path(name).suffix:
        what = "a folder" if Path(name).is_dir() else "a file"
        raise FathomError(f"{name} is {what}, not a preset; did you mean --data {name}?")


def refuse_epochs(recipe: Recipe, epochs: str) -> None:
    """FathomError with the steps that so many passes over the text are; of a BPE about, at 4 bytes a token."""
    if not epochs.replace(".", "", 1).isdigit() or not float(epochs):
        raise FathomError(f"--epochs is {epochs!r}; expected --max-iters N, in steps")
    options, length = recipe.options(), recipe.config(1).context_length
    bytes_a_token = 1 if options.tokenizer in ("char", "byte") else 4
    tokens = about_tokens(options.data, bytes_a_token) * (1 - options.val_fraction)
    steps = max(1, round(tokens / (options.batch_size * length)))
    raise FathomError(
        f"--epochs is {epochs}; expected --max-iters, in steps: an epoch of {options.data} is about"
        f" {counted(steps, 'step')} of {options.batch_size} x {length} tokens;"
        f" use --max-iters {round(float(epochs) * steps) or 1}"
    )


def mode_of(call: Mapping[str, Any]) -> str:
    if call["resume"] and call["overwrite"]:
        raise FathomError("--resume and --overwrite are mutually exclusive; give one of them")
    return "resume" if call["resume"] else "overwrite" if call["overwrite"] else "new"


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
        f"page:     {folder / PAGE} (its loss alone: {folder / 'loss.png'})",
        f"continue: fathom {verb} --resume --out-dir {folder}" if stopped else "",
        *next_lines,
    ]
    return "\n".join(line for line in lines if line)


FINETUNE_NAMES = {
    "method": ("--method",),
    "val_data": ("--val-data",),
    "context_length": ("--context-length", "--block-size", "--max-seq-len"),
    "epochs": ("--epochs",),
    "mask_prompt": ("--mask-prompt/--no-mask-prompt",),
    "on_bad_record": ("--on-bad-record",),
    "pack": ("--pack",),
    "rank": ("-r", "--rank", "--lora-r", "--lora-rank"),
    "alpha": ("--alpha", "--lora-alpha"),
    "dropout": ("--dropout", "--lora-dropout"),
    "target": ("--target", "--targets"),
    "ranks": ("--ranks",),
    "init": ("--init",),
    "rslora": ("--rslora",),
    "lora_plus": ("--lora-plus",),
    "add_token": ("--add-token", "--add-tokens"),
    "chat_template": ("--chat-template",),
    "quantize": ("--quantize",),
    "ask": ("--ask",),
}
FINETUNE_TRAIN_NAMES = {name: TRAIN_NAMES[name] for name in TRAIN_NAMES if name not in ("tokenizer", "compile")}
FINETUNE_TRAIN_NAMES |= {"micro_batch_size": ("--micro-batch-size",)}
FINETUNE = """Fine-tune an existing model of any format: a LoRA adapter on frozen weights (lora, dora), on packed
weights (qlora), or all weights (full). From .json and .jsonl records the answers are learned, from other files the
text."""
FINETUNE_GROUPS = {
    "Data": "train__data finetune__context_length finetune__mask_prompt finetune__ask",
    "Method": "finetune__method finetune__rank finetune__alpha finetune__target",
    "Training": "finetune__epochs train__max_iters train__max_minutes train__batch_size train__learning_rate",
    "Run": "out_dir resume overwrite",
}
FROM_BASE = {"max_iters": "from --epochs", "eval_interval": "a tenth of all steps"}
FROM_BASE |= {"learning_rate": "from the method and the width of MODEL", "data": ""}
FROM_BASE |= {name: in_words(value) for name, value in FINETUNE_DEFAULTS.items()}
TRAIN_SETTINGS = {name: {"shown": shown} for name, shown in FROM_BASE.items()} | {"optimizer": OPTIMIZER}


def effective_tuning(values: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of `fathom finetune` with this model and these options."""
    from fathom.formats.detect import open_model

    call = {name: value for name, value in values.items() if isinstance(value, str | bool)}
    model, train = call.get("model"), fields_of("train", call)
    device = train.get("device", "auto")
    cpu = device == "cpu" or (device == "auto" and torch_device().startswith("cpu"))
    tuning = build(FinetuneOptions, fields_of("finetune", call), "finetune")
    return tuning_defaults(open_model(str(model)).config if model else None, tuning, train, cpu)


@verb(
    "finetune",
    FINETUNE,
    groups=FINETUNE_GROUPS,
    example="fathom finetune runs/demo --data questions.jsonl",
    effective=effective_tuning,
    hint="--data",
)
@click.argument("model", required=False, shell_complete=models)
@option(*OUT_DIR, type=click.Path(path_type=Path), metavar="FOLDER", shown="runs/finetune", help="Folder of the run.")
@option("--resume", is_flag=True, help="Continue the run in --out-dir from where it stopped.")
@option("--overwrite", is_flag=True, help="Replace the run in --out-dir.")
@nproc_option
@from_fields("finetune", FinetuneOptions, FINETUNE_NAMES)
@from_fields(
    "train",
    TrainOptions,
    FINETUNE_TRAIN_NAMES,
    without=SET_BY_BASE,
    settings=TRAIN_SETTINGS,
)
@click.pass_context
def finetune_command(ctx: click.Context, /, model: str | None, **call: Any) -> int:
    mode, folder = mode_of(call), call["out_dir"] or Path("runs") / "finetune"
    options, train = fields_of("finetune", call), fields_of("train", call)
    if starts_processes(call["nproc"]):
        return launch(ctx.meta[WORDS], call["nproc"], f"--resume --out-dir {folder}")
    from fathom.training.finetune import finetune

    with watching(folder) as report:
        result = finetune(model, None, folder, options=options, train=train, mode=mode, report=report)
    return ended(result, call, "finetune", adapter_lines(folder / "adapter", model))


def adapter_lines(adapter: Path, model: str | None) -> list[str]:
    """What can be done with the run of an adapter, or of all weights."""
    ask = f"ask:      fathom chat {adapter.parent}"
    if not adapter.exists():
        return [ask]
    merge = f"merge:    fathom merge {model} {adapter} -o MERGED" if model else ""
    return [f"adapter:  {adapter} (in PEFT's format)", ask, merge]


@contextmanager
def watching(title: str | Path) -> Iterator[Report]:
    """A listener that shows a run in the live view, on stderr, until the block ends. One of several processes shows."""
    if not this_process().first:
        yield silent
        return
    with LiveView(str(title)) as view:
        yield showing(view)
