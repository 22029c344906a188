"""`fathom presets [NAME]`: which presets there are, or one of them as YAML that `train -c` reads back."""

from typing import Any

import click
import yaml

from fathom.cli.options import answer, verb
from fathom.ladder.rungs import recipes
from fathom.train.recipes import find


@verb("presets", "List the presets of `train`, or print one as YAML ready for `train -c FILE`.")
@click.argument("name", required=False)
def command(name: str | None, as_json: bool, **_: Any) -> None:
    known = recipes()
    if name is None:
        chosen = {key: recipe.about for key, recipe in known.items()}
        text = "\n".join(f"{key:<18} {about}" for key, about in chosen.items())
    else:
        recipe = find(name, known)
        chosen, text = recipe.plain(), f"# {recipe.about}\n{yaml.safe_dump(recipe.plain(), sort_keys=False)}".rstrip()
    if as_json:
        answer(chosen)
    else:
        click.echo(text)
