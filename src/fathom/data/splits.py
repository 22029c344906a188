"""The parts of a folder whose files or subfolders are named train, validation and test, as people publish datasets."""

import re
from collections.abc import Collection
from pathlib import Path

from fathom.data.compression import plain_suffix

TRAIN, VAL, TEST = "train", "validation", "test"
SPLITS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("valid", "validation", "val", "dev", "eval"), VAL),
    **dict.fromkeys(("test", "testing"), TEST),
}
SPLIT = re.compile(rf"({'|'.join(SPLITS)})(?:[-_.].*)?")  # as in train-00000-of-00002


def files_in(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files of these types in a folder and below it, in order; none of hidden ones, and no empty ones."""
    files = sorted(f for f in folder.rglob("*") if plain_suffix(f) in suffixes and f.is_file() and f.stat().st_size)
    return [f for f in files if not any(part.startswith(".") for part in f.relative_to(folder).parts)]


def splits(folder: Path, suffixes: Collection[str]) -> dict[str, list[Path]]:
    """The files that a folder, or `data` in it, names train, validation and test; none where none is named train."""
    for place in (folder, folder / "data"):
        found: dict[str, list[Path]] = {}
        for file in files_in(place, suffixes) if place.is_dir() else ():
            if match := SPLIT.fullmatch(file.relative_to(place).parts[0].lower().partition(".")[0]):
                found.setdefault(SPLITS[match[1]], []).append(file)
        if TRAIN in found:
            return found
    return {}


def in_words(folder: Path, suffixes: Collection[str]) -> str:
    """Which files of a folder are for what; empty where its files are not named so."""
    parts = splits(folder, suffixes)
    if not parts:
        return ""
    known = [*parts[TRAIN], *parts.get(VAL, [])]
    others = [file for file in files_in(folder, suffixes) if file not in known]
    held = f"validates on {_names(parts[VAL], folder)}" if VAL in parts else "validates on the end of it"
    left = f"; not read: {_names(others, folder)}" if others else ""
    return f"{folder}: learns from {_names(parts[TRAIN], folder)}, {held}{left}"


def _names(files: list[Path], folder: Path) -> str:
    names = [file.relative_to(folder).as_posix() for file in files[:3]]
    return ", ".join(names) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
