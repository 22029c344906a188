"""`fathom ladder`: every rung from a bigram to LLaMA on the same data and budget, and what each idea bought."""

from pathlib import Path
from typing import Any

import click

from fathom.cli.options import from_fields, given_fields, option, print_json, verb
from fathom.cli.streams import say
from fathom.errors import FathomError
from fathom.experiments.options import LadderOptions
from fathom.fields import build, plain

ABOUT = "Train every rung from a bigram to LLaMA, then both without one idea each, and report what each is worth."
NAMES = {
    "data": ("--data",),
    "rungs": ("--rungs",),
    "seeds": ("--seeds",),
    "minutes": ("--minutes",),
    "steps": ("--steps",),
    "tokenizer": ("--tokenizer",),
    "context_length": ("--context-length", "--block-size"),
    "d_model": ("--d-model",),
    "batch_size": ("--batch-size",),
    "seed": ("--seed",),
    "device": ("--device",),
    "dtype": ("--dtype",),
}
OUT_DIR = ("-o", "--out-dir", "--output-dir", "out_dir")
GROUPS = {
    "What to train": "data tokenizer rungs",
    "How long": "minutes steps seeds",
    "Size": "context_length d_model batch_size",
    "Run": "out_dir resume overwrite",
}


@verb("ladder", ABOUT, groups=GROUPS, example="fathom ladder --data FILE.txt --minutes 5")
@option(*OUT_DIR, type=click.Path(path_type=Path), default="runs/ladder", shown="runs/ladder", help="Its folder.")
@option("--resume", is_flag=True, help="Finish the interrupted ladder in --out-dir.")
@option("--overwrite", is_flag=True, help="Replace the ladder in --out-dir.")
@from_fields("", LadderOptions, NAMES)
def ladder_command(out_dir: Path, resume: bool, overwrite: bool, as_json: bool, **call: Any) -> int:
    from fathom.cli.train import watching
    from fathom.experiments import experiment
    from fathom.experiments.page import write_page
    from fathom.experiments.tables import summary, terminal
    from fathom.report.table import plain as text
    from fathom.training.signals import stop_on_signal

    if resume and overwrite:
        raise FathomError("--resume and --overwrite are mutually exclusive; give one of them")
    given = given_fields(LadderOptions, call)
    if resume and (other := sorted(given.keys() - {"minutes"})):
        raise FathomError(f"{other[0]} was given with --resume; a resumed ladder keeps its options: leave it out")
    options = build(LadderOptions, given, "ladder")
    with watching(out_dir) as report, stop_on_signal() as stop:

        def stopped() -> bool:
            return stop.requested is not None

        if resume:
            result = experiment.resume(out_dir, options.minutes, report, stopped)
        else:
            result = experiment.ladder(options, out_dir, overwrite, report, stopped)
    page = write_page(result, out_dir)
    say(text(terminal(result)), err=as_json)
    say("\n".join([*summary(result), f"report: {page}"]), err=True)
    if as_json:
        print_json(plain(result))
    return 128 + stop.requested if stop.requested else 0
