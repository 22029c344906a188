"""Which format a path holds, by what is in it and never by how it is called.

A file says it in its first bytes, a folder by the configuration it holds. Two models in one folder are an error, not a
choice. Does not know what is in the tensors.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from fathom.errors import FathomError, near
from fathom.files import refuse_pipes
from fathom.formats.config_file import CONFIG
from fathom.formats.opened import Opened

WANTED = (
    "a run folder, a folder of Hugging Face or Meta, a .safetensors, .pth, .gguf or llama2.c .bin file, or a hub id"
)
ADAPTER = "adapter_config.json"  # beside it lie only the changes to a model
SETTINGS_LIMIT = 1 << 22  # bytes of a JSON file that is looked into
OPENERS = {  # imported when a file asks for it
    "run": ("fathom.formats.run", "open_run"),
    "hf": ("fathom.formats.huggingface", "open_huggingface"),
    "meta": ("fathom.formats.meta", "open_meta"),
    "gguf": ("fathom.formats.gguf_model", "open_gguf"),
    "llama2c": ("fathom.formats.llama2c", "open_llama2c"),
}


def open_model(path: str | Path) -> Opened:
    """The model that `path` holds, whatever its format; a hub id is fetched first. FathomError where there is none."""
    place = locate(path)
    found = models(place)
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise FathomError(f"{place} holds {len(found)} models, known by {names}; give one of them a folder of its own")
    for file, kind in found.items():
        module, function = OPENERS[kind]
        where = place if place.is_dir() and not alone(kind) else file
        opened: Opened = getattr(import_module(module), function)(where)
        return opened
    if place.is_dir() and (place / ADAPTER).is_file():
        raise FathomError(f"{place} is an adapter and no model; give the model it belongs to, and this as --adapter")
    raise FathomError(f"{place} holds no model that is known here; give {WANTED}")


def is_model(path: str | Path) -> bool:
    """Whether `open_model` would find something to open; tokenizers and texts are none."""
    return bool(models(locate(path)))


def locate(path: str | Path) -> Path:
    """The file or folder of that name, or what the hub has under it."""
    place = Path(path)
    refuse_pipes(place)
    if place.exists():
        return place
    from fathom.formats.hub import fetch, is_hub_id  # here: most paths are there

    here = place.parent.is_dir() and place.parent != Path()  # runs/nam: a slip of the pen, and no organisation's model
    if is_hub_id(str(path)) and not here:
        return fetch(str(path))
    beside = [file.name for file in place.parent.iterdir()] if place.parent.is_dir() else []
    raise FathomError(f"{path} does not exist{near(place.name, beside)}; give {WANTED}, or train one: fathom train")


def models(place: Path) -> dict[Path, str]:
    """The format of each model that a file or folder holds, by the file it is known by."""
    if not place.is_dir():
        kind = of_file(place)
        return {place: kind} if kind else {}
    found = {}
    if (place / CONFIG).is_file():
        found[place / CONFIG] = "run"
    if "model_type" in settings(place / "config.json"):
        found[place / "config.json"] = "hf"
    if "dim" in settings(place / "params.json"):
        found[place / "params.json"] = "meta"
    kinds = {file: of_file(file) for file in sorted(place.iterdir()) if file.is_file()}
    found |= {file: kind for file, kind in kinds.items() if kind and alone(kind)}
    damaged = {place / "config.json": "hf", place / "params.json": "meta"}  # its own reader says what is wrong
    return found or {file: kind for file, kind in damaged.items() if file.is_file()}


def alone(kind: str) -> bool:
    """Whether one file is the whole model, with its configuration inside."""
    return kind in ("gguf", "llama2c")


def of_file(file: Path) -> str | None:
    """The format of a file by its first bytes, and by the configuration beside it; None: it is no model."""
    try:
        with file.open("rb") as opened:
            start = opened.read(16)
    except OSError as error:
        raise FathomError(f"{file} cannot be read: {(error.strerror or str(error)).lower()}") from None
    if not start and file.suffix in (".gguf", ".bin", ".pth", ".safetensors"):
        raise FathomError(f"{file} is empty; fetch it again")
    if start[:4] == b"GGUF":
        return "gguf"
    if start[:2] == b"PK":  # a zip file, as torch.save makes it
        return "meta" if (file.parent / "params.json").exists() else "hf"
    if start[8:9] == b"{":  # the length of a header, and the header, in JSON
        return "run" if (file.parent / CONFIG).is_file() else "hf"
    from fathom.formats.llama2c import is_llama2c

    return "llama2c" if is_llama2c(file) else None


def settings(file: Path) -> dict[str, Any]:
    """What a JSON file says at its top, or nothing where it is none: its own reader will say why."""
    try:
        if not 0 < file.stat().st_size <= SETTINGS_LIMIT:
            return {}
        values = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
