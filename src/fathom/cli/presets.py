"""`fathom presets`: the recipes of `fathom train`, or one of them as YAML, and the families of published models."""

from typing import Any

import click
import yaml

from fathom.anatomy.cost import n_parameters
from fathom.anatomy.words import CHOICES, DEFAULTS, declared, in_line, word
from fathom.cli.completion import presets
from fathom.cli.options import option, print_json, verb
from fathom.cli.streams import say
from fathom.report.table import plain as as_text
from fathom.report.table import table
from fathom.training.presets import PRESETS, Recipe, find
from fathom.training.travels import travels


@verb(
    "presets",
    "List the presets of fathom train, or print one as YAML, ready for fathom train -c FILE.",
    example="fathom presets gpt2 > my.yaml",
)
@click.argument("name", required=False, shell_complete=presets)
@option("--families", is_flag=True, help="List the families of published models that open, in words of the one config.")
def presets_command(name: str | None, families: bool, as_json: bool, **_: Any) -> None:
    if families:
        chosen = choices_of_families()
        text = as_text(
            table(("family", "in words of the config"), [(key, in_line(own)) for key, own in chosen.items()])
        )
        print_json(chosen) if as_json else say(text.rstrip())
        return
    counts = {key: n_parameters(recipe.config(vocabulary(recipe)).resolved()) for key, recipe in PRESETS.items()}
    values: dict[str, Any] = {
        key: {
            "parameters": counts[key], "exports": exports_of(recipe), "description": recipe.description,
            "choices": {name: value for name, value in declared(recipe.config(1)).items() if name in CHOICES},
        }
        for key, recipe in PRESETS.items()
    }  # fmt: skip
    heads = ("preset", "parameters", "exports to", "what it is", "in words of the config")
    rows = [
        (key, about(counts[key]), row["exports"], row["description"], in_line(row["choices"]))
        for key, row in values.items()
    ]
    text = as_text(table(heads, rows, numbers=(1,)))
    if name is not None:
        recipe = find(name)
        values = recipe.sections()
        text = f"# {recipe.description}\n{yaml.safe_dump(values, sort_keys=False)}".rstrip()
    if as_json:
        print_json(values)
    else:
        say(text.rstrip())


def choices_of_families() -> dict[str, dict[str, Any]]:
    """What sets each family apart, in words of the config; "by model" where its models differ."""
    from fathom.families.registry import families

    result = {}
    for family in families().values():
        own = {name: word(value) for name, value in family.choices.items() if value != DEFAULTS.get(name)}
        open_to = {name: "by model" for name in family.free if name in DEFAULTS and name not in own}
        result[family.title] = own | open_to
    return result


def exports_of(recipe: Recipe) -> str:
    """The formats that hold the model of a recipe, in words; those of its own form stay runs."""
    found = travels(recipe.config(vocabulary(recipe)).resolved(), recipe.options().tokenizer.partition(":")[0])
    return ", ".join(found[1]) if found else "nothing"


CHARACTERS = 65  # of tiny Shakespeare; another text has a few more or fewer


def vocabulary(recipe: Recipe) -> int:
    """Tokens of the recipe's tokenizer; where they follow from the text, as many as English text has characters."""
    kind, _, size = recipe.options().tokenizer.partition(":")
    return int(size) if size.isdigit() else 256 if kind == "byte" else CHARACTERS


def about(count: int) -> str:
    """A number of parameters in three digits: 124M, 0.81M, 0.062M."""
    return f"{count / 1e6:.{0 if count >= 1e8 else 1 if count >= 1e7 else 2 if count >= 1e5 else 3}f}M"
