"""`fathom.info`: what a model is, from the headers of its files. Does not import torch itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fathom.anatomy.cost import cache_bytes, n_active_parameters, n_parameters, parameters
from fathom.errors import FathomError
from fathom.fields import plain
from fathom.formats.convert import plan
from fathom.formats.detect import open_model
from fathom.formats.opened import Opened
from fathom.formats.tokenizer import tokenizer_of
from fathom.model.config import ResolvedConfig
from fathom.tokenizer.protocol import Tokenizer


@dataclass(frozen=True, repr=False)
class Info:
    """What a model is. Printed, it is what `fathom info` shows."""

    path: str
    format: str
    family: str
    config: ResolvedConfig
    parameters: Mapping[str, int]  # `all`, and by part
    bytes: Mapping[str, int]  # of the tensors in the files: `all`, and by number type
    cache_bytes_per_token: int  # of a text, in 16 bits
    tokenizer: Mapping[str, Any] | None
    about: Mapping[str, Any]  # what else the files say: how it was trained, its licence

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        return vars(self) | {"config": plain(self.config)}

    def __repr__(self) -> str:
        count, size = (
            f"{parts['all']:,} ({', '.join(f'{name} {n:,}' for name, n in parts.items() if name != 'all')})"
            for parts in (self.parameters, self.bytes)
        )
        active = n_active_parameters(self.config)
        lines = [
            f"{self.path}: {self.format}, {self.family}",
            f"parameters: {count}",
            *([f"active:     {active:,} parameters for each token"] if active < self.parameters["all"] else []),
            f"bytes:      {size}",
            f"cache:      {self.cache_bytes_per_token:,} bytes for each token of a text, in 16 bits",
        ]
        shown = {"config": plain(self.config), "tokenizer": self.tokenizer or "none"}
        shown |= {"about": self.about} if self.about else {}
        return "\n".join(lines) + "\n" + yaml.safe_dump(shown, sort_keys=False, allow_unicode=True).rstrip()


def info(path: str | Path) -> Info:
    """What a model is: its config, parameters, bytes, tokenizer and provenance, from the headers of its files.

        >>> fathom.info("runs/demo").parameters["all"]

    path: of a model in any format that `fathom.load` reads. No weights are loaded.

    Returns an Info; printed, it is what `fathom info` shows. FathomError: there is no model, its files are damaged or
    are not one whole model.
    """
    opened = open_model(path)
    plan(opened)  # refuses what is not one whole model
    tokenizer, config = tokenizer_of(opened), opened.config.resolved()
    kinds: dict[str, int] = {}
    for stored in opened.tensors.values():
        kinds[stored.kind] = kinds.get(stored.kind, 0) + stored.nbytes
    return Info(
        path=str(opened.path),
        format=opened.format,
        family=family_of(opened),
        config=config,
        parameters={"all": n_parameters(config), **{k: n for k, n in parameters(config).items() if n}},
        bytes={"all": opened.nbytes, **kinds},
        cache_bytes_per_token=cache_bytes(config, 1, 1, 2),
        tokenizer=None if tokenizer is None else describe_tokenizer(tokenizer),
        about=dict(opened.metadata),
    )


def family_of(opened: Opened) -> str:
    """The name of the family, else that no other format holds the model."""
    from fathom.families.registry import of

    if opened.family is not None:
        return opened.family.name
    try:
        return of(opened.config).name
    except FathomError:
        return "of no family that other formats know: only a run folder holds it"


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
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
