"""`fathom info MODEL`: config, parameters, tokenizer and provenance, from the headers of its files."""

from typing import Any

import click

from fathom.cli.options import model_argument, print_json, verb


@verb(
    "info",
    "Show config, parameters, bytes, tokenizer and provenance of a model without loading its weights.",
    example="fathom info runs/demo",
)
@model_argument
def info_command(model: str, as_json: bool, **_: Any) -> None:
    from fathom.adapters.info import info

    known = info(model)
    if as_json:
        print_json(known.plain())
    else:
        click.echo(str(known))
