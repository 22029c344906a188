"""Checkpoints: folders of named files that exist whole or not at all.

A save fills `step-N.partial`, syncs every file, writes the manifest (size and sha256 of each) last and renames. A kill
or a full or failing disk at any moment leaves the earlier checkpoints untouched, and a reader trusts only what the
manifest confirms.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fathom.errors import FathomError
from fathom.files import sync

MANIFEST = "manifest.json"
MANIFEST_LIMIT = 1 << 20  # bytes
PARTIAL = ".partial"  # being filled: never a checkpoint
REPLACED = ".replaced"  # a checkpoint about to give its name to a newer one of the same step
NAME = re.compile(rf"step-(\d{{8,}})({re.escape(REPLACED)})?")

Content = bytes | Callable[[Path], object]


@dataclass(frozen=True)
class Checkpoint:
    """The newest sound checkpoint; `skipped` are the newer, damaged ones with the reason."""

    path: Path
    step: int
    skipped: tuple[tuple[Path, str], ...]


def save(folder: Path, step: int, files: Mapping[str, Content], keep: int = 2, protect: Collection[int] = ()) -> Path:
    """Write `files` as the checkpoint of `step`, then remove all but the newest `keep` and the steps in `protect`.

    A file is its bytes, or a function that writes to the path it is given. FathomError where it cannot be saved; then
    earlier checkpoints are untouched. An older one that cannot be removed is left for the next save.
    """
    if keep < 2:
        raise FathomError(f"keep is {keep}; expected 2 or more, to have one to fall back to")
    final = place(folder, step)
    partial = final.with_suffix(PARTIAL)
    try:
        _prepare(folder)
        _fill(partial, files)
        _publish(partial, final)
    except (OSError, FathomError) as error:
        raise FathomError(
            f"no checkpoint of step {step} in {folder}: {error}; earlier ones are untouched; free disk space and resume"
        ) from error
    finally:
        _discard(partial)
    with suppress(OSError):  # the new one is safe; the next save tries again to remove the others
        _prune(final, keep, protect)
    return final


def place(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return folder / f"step-{step:08d}"


def latest(folder: Path) -> Checkpoint:
    """The newest checkpoint in `folder` that matches its manifest; FathomError where there is none."""
    skipped = []
    for path in newest_first(folder):
        try:
            verify(path)
        except FathomError as error:
            skipped.append((path, str(error)))
        else:
            return Checkpoint(path, step_of(path), tuple(skipped))
    if skipped:
        raise FathomError(
            f"none of {len(skipped)} checkpoints in {folder} is intact; the newest: {skipped[0][1]}; train again"
        )
    raise FathomError(f"no checkpoint in {folder}; expected folders like step-00000500; train first, without resuming")


def verify(path: Path) -> None:
    """FathomError naming file and reason unless every file of the checkpoint `path` matches its manifest."""
    try:
        for name, (size, digest) in _read_manifest(path / MANIFEST).items():
            _verify_file(path / name, size, digest)
    except OSError as error:
        raise FathomError(f"{error.filename or path} cannot be read: {error.strerror}") from error


def _verify_file(file: Path, size: int, digest: str) -> None:
    if not file.is_file():
        raise FathomError(f"{file} is missing; expected {size} bytes")
    if file.stat().st_size != size:
        raise FathomError(f"{file} has {file.stat().st_size} bytes; expected {size}")
    if _sha256(file) != digest:
        raise FathomError(f"{file} is damaged: its sha256 is not the one in {MANIFEST}")


def steps(folder: Path) -> list[int]:
    """The steps of all checkpoints, ascending; `verify` tells which of them are sound."""
    return [step_of(path) for path in reversed(newest_first(folder))]


def _prepare(folder: Path) -> None:
    """Create the folder and remove what a killed save left in it."""
    folder.mkdir(parents=True, exist_ok=True)
    sync(folder.parent)
    for partial in folder.glob(f"step-*{PARTIAL}"):
        _discard(partial)
    for replaced in folder.glob(f"step-*{REPLACED}"):
        if replaced.with_suffix("").exists():
            _discard(replaced)
        else:
            replaced.rename(replaced.with_suffix(""))


def _fill(partial: Path, files: Mapping[str, Content]) -> None:
    partial.mkdir()
    entries = {}
    for name, content in files.items():
        _require_name(name, "a file of a checkpoint")
        file = partial / name
        if callable(content):
            content(file)
        else:
            file.write_bytes(content)
        sync(file)
        entries[name] = {"size": file.stat().st_size, "sha256": _sha256(file)}
    manifest = partial / MANIFEST
    manifest.write_text(json.dumps({"files": entries}, indent=1), encoding="utf-8")
    sync(manifest)
    sync(partial)


def _publish(partial: Path, final: Path) -> None:
    """Give a filled checkpoint its name. One that has it is renamed first and removed when the new one is safe."""
    replaced = final.with_suffix(REPLACED)
    if final.exists():
        final.rename(replaced)
    partial.rename(final)
    sync(final.parent)
    _discard(replaced)


def _prune(newest: Path, keep: int, protect: Collection[int]) -> None:
    """Remove what is older than the newest `keep` sound ones."""
    kept = 0
    for path in newest_first(newest.parent):
        if kept < keep:
            kept += path == newest or _is_sound(path)
        elif step_of(path) not in protect:
            _discard(path)


def _discard(folder: Path) -> None:
    """Remove what can be removed; the next save tries the rest again."""
    with suppress(OSError):  # rmtree ignores every error but that of a close
        shutil.rmtree(folder, ignore_errors=True)


def _is_sound(path: Path) -> bool:
    try:
        verify(path)
    except FathomError:
        return False
    return True


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, sound or not."""
    return sorted((path for path in folder.glob("step-*") if _is_checkpoint(path)), key=step_of, reverse=True)


def _is_checkpoint(path: Path) -> bool:
    """By its name. One that was renamed counts where a kill came before another took its name."""
    matches = NAME.fullmatch(path.name) is not None
    return matches and (path.suffix != REPLACED or not path.with_suffix("").exists())


def step_of(path: Path) -> int:
    """The step of a checkpoint, from its name."""
    return int(path.name.removesuffix(REPLACED).removeprefix("step-"))


def _read_manifest(path: Path) -> dict[str, tuple[int, str]]:
    if not path.is_file():
        raise FathomError(f"{path} is missing; the checkpoint is incomplete")
    try:
        with path.open("rb") as file:
            text = file.read(MANIFEST_LIMIT + 1)
        entries = json.loads(text if len(text) <= MANIFEST_LIMIT else b"")["files"]
        for name in entries:
            _require_name(name, path)
        return {name: (entry["size"], entry["sha256"]) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FathomError(f"{path} is damaged; expected a list of files with size and sha256") from error


def _require_name(name: str, where: object) -> None:
    if not name or name in (".", "..", MANIFEST) or re.search(r"[/\\:\0]", name):
        raise FathomError(f"{where} is named {name!r}; expected a plain file name other than {MANIFEST}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
