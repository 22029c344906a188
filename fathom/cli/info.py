"""`fathom info MODEL`: what a model is, from its files' headers, without loading the weights."""

from typing import TYPE_CHECKING, Any

import click
import yaml

from fathom.cli.options import answer, verb
from fathom.errors import FathomError
from fathom.fields import plain

if TYPE_CHECKING:
    from fathom.formats.opened import Opened
    from fathom.tokenizer.protocol import Tokenizer


@verb("info", "Show config, parameters, bytes, tokenizer and provenance of a model without loading its weights.")
@click.argument("model")
def info_command(model: str, as_json: bool, **_: Any) -> None:
    from fathom.formats.detect import open_model
    from fathom.formats.load import require_tensors, tokenizer_of

    opened = open_model(model)
    require_tensors(opened)
    found = facts(opened, tokenizer_of(opened))
    if as_json:
        answer(found)
    else:
        click.echo(text(found))


def facts(opened: "Opened", tokenizer: "Tokenizer | None") -> dict[str, Any]:
    """All that is shown, as plain values."""
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
        "tokenizer": None if tokenizer is None else spoken(tokenizer),
        "about": dict(opened.about),
    }


def family_of(opened: "Opened") -> str:
    """llama or gpt2, else in words what no other format holds."""
    from fathom.formats.names import family

    try:
        return family(opened.config)
    except FathomError:
        return "neither LLaMA nor GPT-2: only a run folder holds it"


def spoken(tokenizer: "Tokenizer") -> dict[str, Any]:
    """A tokenizer in plain values."""
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


def text(found: dict[str, Any]) -> str:
    """The facts for a reader."""
    count, size = found["parameters"], found["bytes"]
    lines = [
        f"{found['path']}: {found['format']}, {found['family']}",
        f"parameters: {count['all']:,} ({', '.join(f'{name} {n:,}' for name, n in count.items() if name != 'all')})",
        f"bytes:      {size['all']:,} ({', '.join(f'{kind} {n:,}' for kind, n in size.items() if kind != 'all')})",
        f"cache:      {found['cache_bytes_per_token']:,} bytes for each token of a text, in 16 bits",
    ]
    shown = {"config": found["config"], "tokenizer": found["tokenizer"] or "none"} | (
        {"about": found["about"]} if found["about"] else {}
    )
    return "\n".join(lines) + "\n" + yaml.safe_dump(shown, sort_keys=False, allow_unicode=True).rstrip()
