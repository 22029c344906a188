"""`fathom plan MODEL`: what training it will need, before it costs money."""

from typing import Any

import click

from fathom.cli.completion import presets
from fathom.cli.options import from_fields, given_fields, print_json, verb
from fathom.cli.streams import say
from fathom.fields import build
from fathom.planning.options import PlanOptions
from fathom.training.optimizers import NAMES as OPTIMIZERS

NAMES = {
    "method": ("--method",),
    "devices": ("--devices",),
    "tokens": ("--tokens",),
    "batch": ("--batch", "--batch-size"),
    "micro_batch": ("--micro-batch", "--micro-batch-size"),
    "context_length": ("--context-length", "--block-size", "--max-seq-len"),
    "parallel": ("--parallel",),
    "recompute": ("--recompute",),
    "optimizer": ("--optimizer",),
    "rank": ("-r", "--rank"),
    "dtype": ("--dtype",),
    "mfu": ("--mfu",),
}


@verb(
    "plan",
    "Say what training MODEL will need: parameters, memory by kind, work, hours, traffic, and what fits. MODEL is a"
    " preset, a known model such as llama-2-7b, a config.json, a recipe in YAML, a model, or a run, whose measured"
    " figures then stand beside the planned ones.",
    example="fathom plan gpt2 --devices 8xH100-80GB --tokens 10B",
)
@click.argument("model", shell_complete=presets)
@from_fields("", PlanOptions, NAMES, settings={"optimizer": {"choices": OPTIMIZERS, "metavar": "NAME"}})
def plan_command(as_json: bool, **call: Any) -> int:
    options = build(PlanOptions, given_fields(PlanOptions, call), "plan")
    from fathom.planning.plan import planned
    from fathom.planning.subject import subject

    result = planned(subject(options.model, options.method, options.context_length), options)
    say(str(result), err=as_json)
    if as_json:
        print_json(result.plain())
    return 1 if result.problem else 0
