"""`fathom finetune MODEL --data FILE`: a model that exists, trained further, watched while it learns."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fathom.cli.options import answer, from_fields, said, verb
from fathom.errors import FathomError
from fathom.train.finetune_options import SAID_BY_MODEL, FinetuneOptions
from fathom.train.options import TrainOptions

if TYPE_CHECKING:
    from fathom.train.train import Result

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
TRAIN_NAMES = {
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
@from_fields("train", TrainOptions, TRAIN_NAMES, without=SAID_BY_MODEL)
def command(model: str | None, **call: Any) -> int:
    from fathom.cli.watch import watching
    from fathom.train.finetune import finetune

    if call["resume"] and call["overwrite"]:
        raise FathomError("--resume and --overwrite were both given; a run is gone on with or replaced, choose one")
    mode = "resume" if call["resume"] else "overwrite" if call["overwrite"] else "new"
    folder = call["out_dir"] or Path("runs") / "finetune"
    options, train = chosen(call)
    with watching(folder) as report:
        result = finetune(model, None, folder, options=options, train=train, mode=mode, report=report)
    if call["as_json"]:
        answer(result.plain())
    else:
        click.echo(summary(result, model), err=True)
    return result.exit_code


def chosen(call: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the call says of FinetuneOptions and of TrainOptions."""
    flags = {name: call[name] for name in FLAGS if call[name] is not None}
    machine = {key: call[key] for key in ("seed", "device", "dtype") if call[key] is not None}
    return said("finetune", call) | flags, said("train", call) | machine


def summary(result: "Result", model: str | None) -> str:
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
