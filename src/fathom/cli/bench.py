"""`fathom bench WORK [MODEL]`: how fast, in how much memory, and how much of the machine's limit that is."""

import os
from typing import Any

import click

from fathom.bench.options import WORKS, BenchOptions
from fathom.cli.completion import models
from fathom.cli.options import from_fields, given_fields, print_json, verb
from fathom.cli.streams import say
from fathom.fields import build

ABOUT = (
    f"Measure the speed and memory of {', '.join(WORKS[:-1])} or {WORKS[-1]}, and how close the speed is to the limit"
)
ABOUT += " of this machine. The model is MODEL, or one of a standard shape with random weights."
NAMES = {
    name: (f"--{name}",)
    for name in ("shape", "quantize", "prompt", "new", "batch", "threads", "repeat", "plain", "seed", "device", "dtype")
}


@verb("bench", ABOUT, example="fathom bench decode runs/demo")
@click.argument("work")
@click.argument("model", required=False, shell_complete=models)
@from_fields("", BenchOptions, NAMES)
def bench_command(as_json: bool, **call: Any) -> None:
    options = build(BenchOptions, given_fields(BenchOptions, call), "bench")
    if options.threads is not None:  # before torch comes, whose threads begin with it
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
    from fathom.bench.bench import bench
    from fathom.bench.result import text

    result = bench(options)
    say(text(result), err=as_json)
    if as_json:
        print_json(result.plain())
