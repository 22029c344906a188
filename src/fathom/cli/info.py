"""`fathom info MODEL`: config, parameters, tokenizer and provenance, from the headers of its files; `--as-config`: the
model in words of the one config, as `fathom train -c` reads it. Of prepared tokens, what is in them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from fathom.cli.options import model_argument, option, print_json, verb
from fathom.cli.streams import say


@verb(
    "info",
    "Show config, parameters, bytes, tokenizer and provenance of a model without loading its weights.",
    example="fathom info runs/demo",
)
@model_argument
@option(
    "--as-config",
    is_flag=True,
    help="Print the model as YAML for fathom train -c instead: sizes, and choices that are not the default."
    " MODEL may be a preset.",
)
def info_command(model: str, as_config: bool, as_json: bool, **_: Any) -> None:
    from fathom.adapters.info import info
    from fathom.data.shards import is_prepared, open_shards
    from fathom.training.prepare import PreparedTokens

    if is_prepared(model):
        prepared = PreparedTokens(Path(model), open_shards(model))
        print_json(prepared.plain()) if as_json else say(str(prepared))
        return
    if as_config:
        about, values = in_words(model)
        print_json({"model": values}) if as_json else click.echo(f"# {about}\n{as_yaml(values)}")
        return
    known = info(model)
    if as_json:
        print_json(known.plain())
    else:
        say(str(known))


def in_words(model: str) -> tuple[str, dict[str, Any]]:
    """What a model or preset is, and the declared fields of its config."""
    from fathom.adapters.info import base_of
    from fathom.anatomy.words import declared
    from fathom.formats.detect import open_model
    from fathom.formats.info import family_of
    from fathom.training.presets import PRESETS

    if model in PRESETS and not Path(model).exists():
        recipe = PRESETS[model]
        values = declared(recipe.config(1))
        if "vocab_size" in recipe.model:
            return f"preset {model}: {recipe.description}", values
        del values["vocab_size"]
        return f"preset {model}: {recipe.description}\n# its vocabulary is the tokenizer's", values
    opened = open_model(base_of(model) or model)
    return f"{opened.path}: {opened.format}, {family_of(opened)}", declared(opened.config)


def as_yaml(values: Mapping[str, Any]) -> str:
    """The section `model` of a YAML file, with one line for each field where there is room."""
    lines = ["model:"]
    for name, value in values.items():
        style = None if isinstance(value, list | dict) else False
        text = yaml.safe_dump({name: value}, sort_keys=False, default_flow_style=style, width=100)
        lines += [f"  {line}" for line in text.splitlines()]
    return "\n".join(lines)
