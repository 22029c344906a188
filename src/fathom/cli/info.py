"""`fathom info MODEL`: config, parameters and tokenizer from the headers of its files, the rope layout from weights."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
import yaml

from fathom.cli.options import model_argument, print_json, verb
from fathom.errors import FathomError
from fathom.fields import plain

if TYPE_CHECKING:
    from fathom.formats.convert import Source
    from fathom.formats.opened import Opened
    from fathom.model.config import ModelConfig
    from fathom.tokenizer.protocol import Tokenizer

LAYERS = 2  # whose queries and keys are read for the rope layout


@verb(
    "info",
    "Show config, parameters, bytes, tokenizer and provenance of a model without loading its weights.",
    example="fathom info runs/demo",
)
@model_argument
def info_command(model: str, as_json: bool, **_: Any) -> None:
    from fathom.formats.convert import plan
    from fathom.formats.detect import open_model
    from fathom.formats.tokenizer import tokenizer_of

    opened = open_model(model)
    sources = plan(opened)  # refuses what is not one whole model
    values = summary(opened, tokenizer_of(opened)) | {"rope_layout": rope_layout_of(opened.config, sources)}
    if as_json:
        print_json(values)
    else:
        click.echo(text(values))


def summary(opened: "Opened", tokenizer: "Tokenizer | None") -> dict[str, Any]:
    """Everything that is shown, as plain values."""
    from fathom.model.cost import cache_bytes, n_parameters, parameters

    kinds: dict[str, int] = {}
    for stored in opened.tensors.values():
        kinds[stored.kind] = kinds.get(stored.kind, 0) + stored.nbytes
    config = opened.config.resolved()
    return {
        "path": str(opened.path),
        "format": opened.format,
        "family": family_of(opened),
        "config": plain(config),
        "parameters": {"all": n_parameters(config), **{k: n for k, n in parameters(config).items() if n}},
        "bytes": {"all": opened.nbytes, **kinds},
        "cache_bytes_per_token": cache_bytes(config, 1, 1, 2),
        "tokenizer": None if tokenizer is None else describe_tokenizer(tokenizer),
        "about": dict(opened.metadata),
    }


def family_of(opened: "Opened") -> str:
    """The name of the family, else that no other format holds the model."""
    from fathom.families.registry import of

    if opened.family is not None:
        return opened.family.name
    try:
        return of(opened.config).name
    except FathomError:
        return "of no family: only a run folder holds it"


def rope_layout_of(config: "ModelConfig", sources: "Mapping[str, Source]") -> dict[str, Any] | None:
    """The layout by the weights of LAYERS layers, as plain values; None where rope turns nothing."""
    from fathom.verification.layout import rope_layout

    layout = rope_layout(config, lambda name: sources[name].read() if name in sources else None, LAYERS)
    return None if layout is None else {"verdict": layout.verdict, **plain(layout)}


def describe_tokenizer(tokenizer: "Tokenizer") -> dict[str, Any]:
    """A tokenizer as plain values."""
    special = tokenizer.special
    return {
        "kind": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "bos": special.bos,
        "eos": special.eos,
        "ends": sorted(special.end_ids),
        "special_tokens": len(special.names),
        "chat_template": None if special.template is None else f"{len(special.template):,} characters of its own",
    }


def text(values: dict[str, Any]) -> str:
    """The summary as text."""
    count, size = values["parameters"], values["bytes"]
    lines = [
        f"{values['path']}: {values['format']}, {values['family']}",
        f"parameters: {count['all']:,} ({', '.join(f'{name} {n:,}' for name, n in count.items() if name != 'all')})",
        f"bytes:      {size['all']:,} ({', '.join(f'{kind} {n:,}' for kind, n in size.items() if kind != 'all')})",
        f"cache:      {values['cache_bytes_per_token']:,} bytes for each token of a text, in 16 bits",
    ]
    if layout := values["rope_layout"]:
        wrong = layout["verdict"] == "interleaved"
        hint = "; the rows of q and k may be in the wrong order: see fathom verify" * wrong
        evidence = f"{layout['half_split']:+.1f} σ half-split, {layout['interleaved']:+.1f} σ interleaved"
        lines.append(f"rope:       {layout['verdict']} by its weights ({evidence}){hint}")
    shown = {"config": values["config"], "tokenizer": values["tokenizer"] or "none"} | (
        {"about": values["about"]} if values["about"] else {}
    )
    return "\n".join(lines) + "\n" + yaml.safe_dump(shown, sort_keys=False, allow_unicode=True).rstrip()
