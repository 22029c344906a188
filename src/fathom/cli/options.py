"""Verbs and their options, written by hand or made from the fields of a dataclass.

`-` and `_` are the same in option names. An option that is not given is None, so that presets and files take precedence
over defaults. Does not import torch.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import click

from fathom.cli.command import CONTEXT, Option, Verb, in_words
from fathom.cli.completion import models
from fathom.cli.notes import notes
from fathom.errors import FathomError
from fathom.fields import convert

F = TypeVar("F", bound=Callable[..., Any])


def verb(
    name: str, help: str, *, as_json: bool = True, **settings: Any
) -> Callable[[Callable[..., Any]], click.Command]:
    """Decorator: the function as a verb, with the options that every verb has. settings: those of Verb.

    as_json: whether it has a result that --json prints.
    """

    def decorate(function: Callable[..., Any]) -> click.Command:
        for add in reversed(EVERY_VERB if as_json else EVERY_VERB[1:]):
            function = add(function)
        return click.command(name, cls=Verb, help=help, context_settings=CONTEXT, **settings)(function)

    return decorate


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    """Decorator: one option. settings: those of Option."""
    return click.option(*names, cls=Option, **settings)


def _show_every_option(ctx: click.Context, _: click.Parameter, given: bool) -> None:
    if given and not ctx.resilient_parsing:
        ctx.meta["every"] = True
        click.echo(ctx.get_help())
        ctx.exit()


EVERY_VERB = [
    option("--json", "as_json", is_flag=True, help="Print the result as one JSON object on the last line of stdout."),
    option("--debug", is_flag=True, help="Show the traceback of an error."),
    option(
        "--help-all",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_show_every_option,
        help="Show every option and exit.",
    ),
]


class WholeNumber(click.ParamType[int]):
    """A whole number from `least` to what 64 bits hold."""

    name = "n"
    most = 2**63 - 1

    def __init__(self, least: int) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if not str(value).isdecimal() or int(value) < self.least:
            raise FathomError(f"{spelling(param)} is {value!r}; expected a whole number of at least {self.least}")
        if int(value) > self.most:
            raise FathomError(f"{spelling(param)} is {value}; expected at most 2^63 - 1")
        return int(value)


model_argument = click.argument("model", shell_complete=models)

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "fp32", "bf16", "fp16")
device_option = option("--device", metavar="NAME", choices=DEVICES, shown="auto", help="Where the model runs.")
dtype_option = option(
    "--dtype", metavar="NAME", choices=DTYPES, shown="auto", help="Number format of the weights; auto: as stored."
)
seed_option = option("--seed", type=WholeNumber(0), metavar="N", shown="0", help="Seed of everything random.")


class FieldValue(click.ParamType[Any]):
    """Text that a field of a dataclass can be made of: checked here, where the option is known by its name."""

    name = "value"

    def __init__(self, hint: Any) -> None:
        self.hint = hint

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        convert(self.hint, value, spelling(param))
        return value  # as given: `none` is a value, and None is an option that was not given


def spelling(param: click.Parameter | None) -> str:
    """The name of an option as it is shown."""
    return next((name for name in param.opts if name.startswith("--")), "") if param else "value"


def bare(hint: Any) -> Any:
    """The type of a field that may be None."""
    if get_origin(hint) in (Union, UnionType):
        return next(part for part in get_args(hint) if part is not type(None))
    return hint


def choices_of(hint: Any) -> tuple[str, ...]:
    """The words that a field may hold; empty where any will do."""
    kind = bare(hint)
    return tuple(map(str, get_args(kind))) if get_origin(kind) is Literal else ()


METAVARS = {int: "N", float: "X", bool: "BOOL", str: "TEXT"}


def from_fields(
    section: str,
    cls: type,
    names: Mapping[str, Sequence[str]],
    *,
    without: Collection[str] = (),
    repeated: Collection[str] = (),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Callable[[F], F]:
    """Decorator: an option for every field of a dataclass, its help the comment beside the field.

    names: other spellings of some fields, the one to show first. A section makes every field `--section.field-name`;
    without one ("") only the fields in `names` become options. repeated: may be given several times. settings: what
    differs from the field, by its name.
    """

    def decorate(function: F) -> F:
        chosen = [f for f in dataclasses.fields(cls) if f.name not in without and (section or f.name in names)]
        for field in reversed(chosen):
            own = field_option(section, cls, field, names.get(field.name, ()), field.name in repeated)
            function = option(*own.pop("names"), **own | dict((settings or {}).get(field.name, {})))(function)
        return function

    return decorate


def field_option(
    section: str, cls: type, field: "dataclasses.Field[Any]", own: Sequence[str], repeated: bool
) -> dict[str, Any]:
    """The settings of the option of a field."""
    hint, note = get_type_hints(cls)[field.name], notes(cls)[field.name]
    dotted = f"--{section}.{field.name.replace('_', '-')}"
    flag = bare(hint) is bool and bool(own)
    default = None if field.default is dataclasses.MISSING else field.default
    settings: dict[str, Any] = {"help": note.sentence, "heading": heading(section, note.heading)}
    settings["shown"] = note.unset or "off" if default in (None, "", ()) else in_words(default)
    if flag:
        settings |= {"is_flag": True, "default": None}
    else:
        metavar = METAVARS.get(bare(hint), "NAME" if choices_of(hint) else "LIST")
        settings |= {"type": FieldValue(hint), "metavar": metavar, "multiple": repeated, "choices": choices_of(hint)}
        if repeated:
            settings |= {"type": str, "metavar": "TEXT"}
    spelled = [*own, *([dotted] if section and not flag else [])]
    return settings | {"names": [*spelled, f"{section}__{field.name}" if section else field.name]}


def heading(section: str, title: str) -> str:
    """The title of a group in `--help-all`."""
    return f"{title[:1].upper()}{title[1:]}" if title else section.capitalize()


def fields_of(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The given options of this section, by field name."""
    start = f"{section}__"
    return {name[len(start) :]: v for name, v in values.items() if name.startswith(start) and v is not None}


def given_fields(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The given options that are fields of the dataclass."""
    names = [field.name for field in dataclasses.fields(cls)]
    return {name: values[name] for name in names if values.get(name) not in (None, ())}


def print_json(value: Mapping[str, Any]) -> None:
    """Write the result as one line of JSON on stdout."""
    sys.stdout.write(json.dumps(value, default=str) + "\n")
