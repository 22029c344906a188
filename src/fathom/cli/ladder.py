"""`fathom ladder`: every rung from a bigram to LLaMA on the same data and budget, and what each idea bought."""

from pathlib import Path
from typing import Any

import click

from fathom.cli.options import print_json, verb
from fathom.errors import FathomError
from fathom.experiments.options import LadderOptions
from fathom.fields import build, plain

ABOUT = "Train every rung from a bigram to LLaMA on the same text and budget, and report what each idea bought."


@verb("ladder", ABOUT)
@click.option("--data", metavar="TEXT", help="A file, a folder, a .jsonl or the name of a corpus; default python-docs.")
@click.option("--rungs", metavar="KEYS", help="Some of them, such as bigram,attention,heads; default all.")
@click.option("--seeds", metavar="N", help="Runs of each rung; default 3.")
@click.option("--minutes", metavar="N", help="For the whole ladder; default 5.")
@click.option("--steps", metavar="N", help="Of every rung; default: as many as the minutes allow.")
@click.option("--tokenizer", metavar="KIND", help="char, byte, bpe:SIZE or a tokenizer.json; default char.")
@click.option("--block-size", "--context-length", "context_length", metavar="N", help="Tokens in view; default 64.")
@click.option("--d-model", metavar="N", help="Width of every rung; default 64.")
@click.option("--batch-size", metavar="N", help="Sequences per step; default 16.")
@click.option("--out-dir", "--output-dir", "-o", "out_dir", type=click.Path(path_type=Path), default="runs/ladder")
@click.option("--resume", is_flag=True, help="Train what the ladder in --out-dir still lacks.")
@click.option("--overwrite", is_flag=True, help="Replace the ladder in --out-dir.")
def ladder_command(out_dir: Path, resume: bool, overwrite: bool, as_json: bool, **call: Any) -> int:
    from fathom.cli.train import watching
    from fathom.experiments import experiment
    from fathom.experiments.page import summary, terminal, write_page
    from fathom.report.table import plain as text
    from fathom.training.signals import stop_on_signal

    if resume and overwrite:
        raise FathomError("--resume and --overwrite are mutually exclusive; give one of them")
    given = {
        key: value for key, value in call.items() if key in LadderOptions.__dataclass_fields__ and value is not None
    }
    if resume and (other := sorted(given.keys() - {"minutes"})):
        raise FathomError(f"{other[0]} was given with --resume; a resumed ladder keeps its choices: leave it out")
    options = build(LadderOptions, given, "ladder")
    with watching(out_dir) as report, stop_on_signal() as stop:

        def stopped() -> bool:
            return stop.requested is not None

        if resume:
            result = experiment.resume(out_dir, options.minutes, report, stopped)
        else:
            result = experiment.ladder(options, out_dir, overwrite, report, stopped)
    page = write_page(result, out_dir)
    click.echo(text(terminal(result)), err=as_json)
    click.echo("\n".join([*summary(result), f"report: {page}"]), err=True)
    if as_json:
        print_json(plain(result))
    return 128 + stop.requested if stop.requested else 0
