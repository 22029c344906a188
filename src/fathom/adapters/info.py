"""`fathom.info`: what a model is; of a run that trained an adapter, its base and the adapter. Does not import torch."""

from dataclasses import replace
from pathlib import Path

from fathom.demos import located
from fathom.formats import config_file
from fathom.formats import info as formats
from fathom.json_file import read_object

ADAPTER = "adapter/adapter_config.json"  # in a run of fine-tuning


def info(path: str | Path) -> formats.Info:
    """What a model is: its config, parameters, bytes, tokenizer and provenance, from the headers of its files.

        >>> fathom.info("runs/demo").parameters["all"]

    path: of a model in any format that `fathom.load` reads; of a run of fine-tuning, its base and the adapter are
    described. No weights are loaded.

    Returns an Info; printed, it is what `fathom info` shows. FathomError: there is no model, its files are damaged or
    are not one whole model.
    """
    base, adapter = base_of(path), located(path) / ADAPTER
    if base is None:
        return formats.info(path)
    known, values = formats.info(base), read_object(adapter)
    fields = ("r", "lora_alpha", "target_modules", "use_dora", "use_rslora", "modules_to_save")
    about = {"folder": str(adapter.parent)} | {name: values[name] for name in fields if values.get(name)}
    return replace(
        known,
        path=str(path),
        format=f"{known.format}, with an adapter of rank {values.get('r')}",
        about={"base": base, "adapter": about, **known.about},
    )


def base_of(path: str | Path) -> str | None:
    """The path of the model on which a run trained an adapter; None where the path is no such run."""
    folder = located(path)
    file = folder / config_file.CONFIG
    if not file.is_file() or not (folder / ADAPTER).is_file():
        return None
    base = config_file.read_config(file).get("base")
    return base["path"] if isinstance(base, dict) and isinstance(base.get("path"), str) else None
