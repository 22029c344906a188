"""Options every verb has, and options made from the fields of a dataclass.

`-` and `_` are the same in option names. What the user did not say stays unsaid (None), so that presets and files can
speak first. Does not import torch.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
CONTEXT = {"help_option_names": ["-h", "--help"], "token_normalize_func": lambda name: name.replace("_", "-")}


def verb(name: str, help: str, **settings: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """The decorator that makes a function a verb with the options all verbs have."""

    def make(function: Callable[..., Any]) -> click.Command:
        for option in reversed(COMMON):
            function = option(function)
        return click.command(name, help=help, context_settings={**CONTEXT, **settings})(function)

    return make


COMMON = [
    click.option("--seed", type=click.IntRange(0), help="For everything random."),
    click.option("--device", help="auto, cpu, cuda or mps."),
    click.option("--dtype", help="auto, fp32, bf16 or fp16."),
    click.option("--json", "as_json", is_flag=True, help="One JSON object as the last line of stdout."),
    click.option("--debug", is_flag=True, help="Show the traceback of an error."),
]


def from_fields(
    section: str, cls: type, names: Mapping[str, Sequence[str]], without: Collection[str] = ()
) -> Callable[[F], F]:
    """An option for every field of a dataclass: `--section.field-name`, and for some the names users already type."""

    def decorate(function: F) -> F:
        for field in reversed([field for field in dataclasses.fields(cls) if field.name not in without]):
            main = f"--{section}.{field.name.replace('_', '-')}"
            declarations = [*names.get(field.name, ()), main, f"{section}__{field.name}"]
            default = field.default if field.default is not dataclasses.MISSING else "from the tokenizer"
            function = click.option(*declarations, metavar="VALUE", help=f"{default}")(function)
        return function

    return decorate


def said(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What the call said of this section's fields."""
    start = f"{section}__"
    return {name[len(start) :]: v for name, v in values.items() if name.startswith(start) and v is not None}


def answer(value: Mapping[str, Any]) -> None:
    """The result as one JSON object on one line of stdout."""
    sys.stdout.write(json.dumps(value, default=str) + "\n")
