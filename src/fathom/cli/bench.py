"""`fathom bench WORK [MODEL]`: how fast, in how much memory, and how much of the machine's limit that is."""

import os
from typing import Any

import click

from fathom.bench.options import WORKS, BenchOptions
from fathom.cli.options import print_json, verb
from fathom.fields import build

ABOUT = f"Measure {', '.join(WORKS[:-1])} or {WORKS[-1]}, of MODEL or of a shape with random weights."
DECODE = "Tokens in the cache before decoding, of a prompt, or of a row to learn from; default 128, or 256 to learn."


@verb("bench", ABOUT)
@click.argument("work")
@click.argument("model", required=False)
@click.option("--shape", metavar="NAME", help="Random weights: gpt2, 110M, 1.1B or 7B; default 110M without MODEL.")
@click.option("--quantize", metavar="KIND", help="Keep the matrices of the blocks as int8, int4 or nf4.")
@click.option("--prompt", metavar="N", help=DECODE)
@click.option("--new", metavar="N", help="Tokens to decode, the first 4 not counted; default 64.")
@click.option("--batch", metavar="N", help="Rows side by side; default 1, or 4 to learn.")
@click.option("--threads", metavar="N", help="Default: as many as torch takes.")
@click.option("--repeat", metavar="N", help="Rounds, of which the median counts; default 3.")
@click.option("--plain", is_flag=True, default=None, help="The readable model as it is, without its fast leaves.")
def bench_command(as_json: bool, **call: Any) -> None:
    given = {name: call[name] for name in BenchOptions.__dataclass_fields__ if call.get(name) is not None}
    options = build(BenchOptions, given, "bench")
    if options.threads is not None:  # before torch comes, whose threads begin with it
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
    from fathom.bench.bench import bench
    from fathom.bench.result import text

    result = bench(options)
    click.echo(text(result), err=as_json)
    if as_json:
        print_json(result.plain())
