"""The parts of a folder whose files or subfolders are named train, validation and test, as people publish datasets."""

import re
from collections.abc import Collection
from pathlib import Path

from fathom.data.compression import plain_suffix
from fathom.errors import FathomError

TRAIN, VAL, TEST = "train", "validation", "test"
SPLITS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("valid", "validation", "val", "dev", "eval"), VAL),
    **dict.fromkeys(("test", "testing"), TEST),
}
SPLIT = re.compile(rf"({'|'.join(SPLITS)})(?:[-_.].*)?")  # as in train-00000-of-00002
HELD_BACK = re.compile(r"(test|valid|validation|val|dev|eval)(?:-\d+-of-\d+)?")  # also where nothing is named train
DOCUMENTS = ".md"  # a page about tests is called test.md


def files_in(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files of these types in a folder and below it, in order; none of hidden ones, and no empty ones."""
    files = sorted(f for f in folder.rglob("*") if plain_suffix(f) in suffixes and f.is_file() and f.stat().st_size)
    return [f for f in files if not any(part.startswith(".") for part in f.relative_to(folder).parts)]


def split_of(name: str) -> str | None:
    """The part for which a file is named, or a folder in its path; None: for none."""
    words = (part.lower().partition(".")[0] for part in Path(name).parts)
    return next((SPLITS[match[1]] for word in words if (match := SPLIT.fullmatch(word))), None)


def splits(folder: Path, suffixes: Collection[str]) -> dict[str, list[Path]]:
    """The files that a folder, or `data` in it, names train, validation and test; none where none is named so.

    Where nothing is named train, but `test.txt` or `valid.txt` is there, the other files are for training.
    """
    for place in (folder, folder / "data"):
        files = files_in(place, suffixes) if place.is_dir() else []
        names = {file: file.relative_to(place).parts[0].lower().partition(".")[0] for file in files}
        found = {file: SPLITS[match[1]] for file, name in names.items() if (match := SPLIT.fullmatch(name))}
        if TRAIN not in found.values():
            held = {file for file in found if HELD_BACK.fullmatch(names[file]) and plain_suffix(file) != DOCUMENTS}
            found = {file: found[file] if file in held else TRAIN for file in files} if held else {}
        if found:
            return {part: [file for file in found if found[file] == part] for part in dict.fromkeys(found.values())}
    return {}


def to_learn(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files of a folder that are named for training; none where its files are not named by parts.

    FathomError: all of them are for validation or testing.
    """
    parts = splits(folder, suffixes)
    if parts and TRAIN not in parts:
        names = _names([file for files in parts.values() for file in files], folder)
        raise FathomError(
            f"{folder}: holds no file to learn from, only {names}, named for validation or testing; rename one to"
            " train, or give the file itself"
        )
    return parts.get(TRAIN, [])


def in_words(folder: Path, suffixes: Collection[str]) -> str:
    """Which files of a folder are for what; empty where its files are not named so."""
    parts = splits(folder, suffixes)
    if TRAIN not in parts:
        return ""
    known = [*parts[TRAIN], *parts.get(VAL, [])]
    others = [file for file in files_in(folder, suffixes) if file not in known]
    held = f"validates on {_names(parts[VAL], folder)}" if VAL in parts else "validates on the end of it"
    left = f"; not read: {_names(others, folder)}" if others else ""
    return f"{folder}: learns from {_names(parts[TRAIN], folder)}, {held}{left}"


def _names(files: list[Path], folder: Path) -> str:
    names = [file.relative_to(folder).as_posix() for file in files[:3]]
    return ", ".join(names) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
