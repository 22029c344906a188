"""Which format a path holds, by its contents and never by its name: a file's first bytes, a folder's configuration.

Of a folder that holds its model in several formats, the first of PREFERRED is read, and a warning says so.
"""

import re
import warnings
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fathom.demos import located
from fathom.errors import FathomError, near
from fathom.files import refuse_pipes
from fathom.formats.config_file import CONFIG
from fathom.formats.pickle_machine import is_legacy
from fathom.json_file import read_object
from fathom.words import article

if TYPE_CHECKING:
    from fathom.formats.opened import Opened

EXPECTED = (
    "a run folder, a Hugging Face, Meta or litgpt folder, a .safetensors, .pth, .gguf, llama2.c .bin or nanoGPT .pt"
    " file, or a hub id"
)
ADAPTER = "adapter_config.json"  # beside it are only the changes to a model
LITGPT = "model_config.yaml"
CONFIGURATIONS = {CONFIG: "run", "config.json": "hf", "params.json": "meta", LITGPT: "litgpt"}
KEYS = {"config.json": "model_type", "params.json": "dim"}  # what makes such a file one of a model
OPENERS = {  # imported when a file asks for it
    "run": ("fathom.formats.run", "open_run"),
    "hf": ("fathom.formats.huggingface", "open_huggingface"),
    "meta": ("fathom.formats.meta", "open_meta"),
    "gguf": ("fathom.formats.gguf_model", "open_gguf"),
    "llama2c": ("fathom.formats.llama2c", "open_llama2c"),
    "litgpt": ("fathom.formats.litgpt", "open_litgpt"),
    "nanogpt": ("fathom.formats.nanogpt", "open_nanogpt"),
}
ONE_FILE = ("gguf", "llama2c", "nanogpt")  # formats in which one file is the whole model
CACHED = re.compile(r"models--.+")  # the folder of a repository in the hub's cache
LISTED = 6  # models named in an error
PREFERRED = ("run", "hf", "meta", "litgpt", *ONE_FILE)
WEIGHTS = {
    "hf": r"(?!consolidated)[^.].*\.(safetensors|bin)(\.index\.json)?",
    "meta": r"consolidated\.\d+\.pth",
    "litgpt": r"lit_model\.pth",
}


def open_model(path: str | Path) -> "Opened":
    """The model that `path` holds, whatever its format; a hub id is fetched first. FathomError where there is none."""
    place = locate(path)
    if (file := chosen(place)) is not None:
        format = models(place)[file]
        module, function = OPENERS[format]
        opened: Opened = getattr(import_module(module), function)(file if format in ONE_FILE else place)
        from fathom.formats.convert import compare_tied  # here: to name a format needs no torch

        return compare_tied(opened)
    if place.is_dir() and (place / ADAPTER).is_file():
        raise FathomError(f"{place} is an adapter, not a model; give the model it belongs to, and this as --adapter")
    if inside := models_inside(place):
        several = f"the models {', '.join(inside[:LISTED])}" if len(inside) > 1 else f"a model, {inside[0]}"
        more = f" and {len(inside) - LISTED} more" if len(inside) > LISTED else ""
        raise FathomError(f"{place} is not a model but a folder with {several}{more}; give one of them")
    folder = place.parent
    part = place.is_file() and any((folder / name).is_file() for name in CONFIGURATIONS)
    hint = f"did you mean {folder}, of which it is a part? Give" if part else "give"
    raise FathomError(f"{place} holds no model in a supported format; {hint} {EXPECTED}")


def models_inside(place: Path) -> list[str]:
    """The folders inside this one that hold a model, the newest first."""
    folders = [child for child in place.iterdir() if child.is_dir() and child.name[0] != "."] if place.is_dir() else []
    known = [each for each in folders if any((each / name).is_file() for name in CONFIGURATIONS)]
    return [str(each) for each in sorted(known, key=lambda each: each.stat().st_mtime, reverse=True)]


def chosen(place: Path) -> Path | None:
    """The file that identifies the model to be read; None where there is no model.

    FathomError where two are of the same format, so that nothing speaks for either.
    """
    found = models(place)
    if not found:
        return None
    best = min(found.values(), key=PREFERRED.index)
    file, *same = [file for file, format in found.items() if format == best]
    if same:
        names = ", ".join(each.name for each in (file, *same))
        raise FathomError(f"{place} holds {1 + len(same)} models ({names}); give one of them, such as {file}")
    if others := [each for each in found if each != file]:
        names, other = ", ".join(each.name for each in others), others[0]
        path = other if found[other] in ONE_FILE else next(other.parent.glob("consolidated.*"), other)
        warnings.warn(f"{place} holds {file.name} and {names}; {file.name} is read; the other is {path}", stacklevel=3)
    return file


def is_model(path: str | Path) -> bool:
    """Whether `open_model` would find something to open; tokenizers and texts are none."""
    return bool(models(locate(path)))


def require_path(path: object) -> None:
    """FathomError where something else than a path was given, such as a model."""
    if not isinstance(path, str | PathLike):
        raise FathomError(f"{article(type(path).__name__)} was given; expected the path of a model, as text or a Path")


def locate(path: str | Path) -> Path:
    """The file or folder of that name, or what the hub has under it."""
    if "://" in str(path):
        raise FathomError(f"{path} is a URL; give {EXPECTED}: org/name of the hub, or a file that you downloaded")
    require_path(path)
    place = located(path)
    refuse_pipes(place)
    if CACHED.fullmatch(place.resolve().name) and (place / "snapshots").is_dir():
        return snapshot(place)
    if place.exists():
        return place
    from fathom.formats.hub import fetch, is_hub_id  # here: most paths exist

    mistyped = place.parent.is_dir() and place.parent != Path()  # runs/nam is a mistyped path and no hub id
    if is_hub_id(str(path)) and not mistyped:
        return fetch(str(path))
    beside = [file.name for file in place.parent.iterdir()] if place.parent.is_dir() else []
    inside = models_inside(place.parent)[:LISTED]
    hint = near(place.name, beside, then="give")
    if hint == "; give" and inside:
        hint = f"; {place.parent} holds {', '.join(inside)}; give"
    raise FathomError(f"{path} does not exist{hint} {EXPECTED}, or train one: fathom train")


def snapshot(repository: Path) -> Path:
    """The files of a model in the hub's cache: the snapshot that its branch main is at, or the only one."""
    main = repository / "refs" / "main"
    commit = main.read_text(encoding="utf-8", errors="replace").strip()[:100] if main.is_file() else ""
    known = {each.name: each for each in sorted((repository / "snapshots").iterdir()) if each.is_dir()}
    if commit in known or len(known) == 1:
        return known.get(commit) or next(iter(known.values()))
    raise FathomError(
        f"{repository} is a folder of the hub's cache with {len(known)} snapshots, and refs/main names none of them;"
        " give a folder in snapshots/"
    )


def models(place: Path) -> dict[Path, str]:
    """The format of each model in a file or folder, by the file that identifies it."""
    if not place.is_dir():
        format = of_file(place)
        return {place: format} if format else {}
    known = {place / name: format for name, format in CONFIGURATIONS.items() if (place / name).is_file()}
    sound = {file: format for file, format in known.items() if file.name not in KEYS or KEYS[file.name] in keys(file)}
    inside = [file for file in sorted(place.iterdir()) if file.is_file()]
    single = {file: format for file in inside if (format := of_file(file)) in ONE_FILE}
    complete = {
        file: format
        for file, format in sound.items()
        if format not in WEIGHTS or any(re.fullmatch(WEIGHTS[format], each.name) for each in set(inside) - set(single))
    }
    # a config beside a GGUF file alone describes that file; a damaged model is refused by its own reader
    return complete | single or sound or known


def of_file(file: Path) -> str | None:
    """The format of a file by its first bytes and the configuration beside it; None: it is no model."""
    try:
        with file.open("rb") as opened:
            start = opened.read(16)
    except OSError as error:
        raise FathomError(f"{file} cannot be read: {(error.strerror or str(error)).lower()}") from None
    if not start and file.suffix in (".gguf", ".bin", ".pth", ".safetensors"):
        raise FathomError(f"{file} is empty; fetch it again")
    if start[:4] == b"GGUF":
        return "gguf"
    if start[:2] == b"PK" or is_legacy(start):  # as torch.save writes it
        return of_pickle(file)
    if start[8:9] == b"{":  # safetensors: the length of a header, and the header in JSON
        return "run" if (file.parent / CONFIG).is_file() else "hf"
    from fathom.formats.llama2c import is_llama2c

    return "llama2c" if is_llama2c(file) else None


def of_pickle(file: Path) -> str:
    """The format of a file that torch.save wrote, by what is beside it or, with no configuration there, in it."""
    for format, config in (("meta", "params.json"), ("litgpt", LITGPT)):
        if re.fullmatch(WEIGHTS[format], file.name) and (file.parent / config).exists():
            return format
    if not (file.parent / "config.json").exists():
        from fathom.formats.nanogpt import is_nanogpt

        return "nanogpt" if is_nanogpt(file) else "hf"
    return "hf"


def keys(file: Path) -> dict[str, Any]:
    """The keys of a JSON object; none where the file holds no such thing."""
    try:
        return read_object(file)
    except FathomError:
        return {}
