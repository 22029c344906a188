"""Atomic writes: write a temporary file beside the target, sync it, rename it over the target.

After a crash, a full disk or a kill at any moment the target holds the old bytes or the new ones, never a part
(Pillai et al. 2014, OSDI, on the guarantees of rename and fsync). And a check that refuses pipes and devices.
"""

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fathom.errors import FathomError


def refuse_pipes(place: Path) -> None:
    """FathomError for a pipe or a device, which would block a reader for ever. A path that does not exist passes."""
    for path in (place, *(place.iterdir() if place.is_dir() else ())):
        if path.exists() and not (stat.S_ISREG(mode := path.stat().st_mode) or stat.S_ISDIR(mode)):
            raise FathomError(f"{path} is a pipe or a device; expected files and folders: remove it or name another")


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """`with atomic_write(path) as temporary: ...` fills `temporary`, then it becomes `path`; an error changes nothing.

    The folder must exist. Writers of one path do not disturb each other: the last one wins. Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.partial")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    except BaseException:  # Ctrl-C too: leave nothing half-written
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Force the bytes of a file, or the names in a folder, onto the disk."""
    folder = path.is_dir()
    if folder and os.name == "nt":  # Windows cannot open a folder and writes names through
        return
    descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """`atomic_write` as an open binary file, creating its folder; an OSError becomes a FathomError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            yield file
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise FathomError(f"{path}: cannot be written ({reason.lower()}); give another path") from problem


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """`with new_folder(path) as partial: ...` fills `partial`, then it becomes `path`, which must be new or empty.

    An error leaves nothing behind; an OSError becomes a FathomError. The caller syncs the files.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FathomError(f"{path} exists and is not empty; give the name of a new folder")
    partial = path.with_name(f".{path.name}.{os.urandom(4).hex()}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        sync(partial)
        if path.exists():
            path.rmdir()  # empty; rename replaces a folder on some systems only
        partial.rename(path)
        sync(path.parent)
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise FathomError(f"{path}: cannot be written ({reason.lower()}); give another path") from problem
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_bytes(path: Path, limit: int, what: str) -> bytes:
    """The bytes of a file. FathomError: it cannot be read, or is larger than `limit` bytes; `what` is expected."""
    try:
        if (size := path.stat().st_size) > limit:
            raise FathomError(f"{path} has {size:,} bytes; expected {what} of at most {limit:,} bytes")
        return path.read_bytes()
    except OSError as problem:
        raise FathomError(f"{path}: cannot be read ({problem.strerror or problem}); expected {what}") from None


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A new folder that replaces `folder` when the block has succeeded, and is removed when it has not."""
    given, folder = folder, folder.absolute()
    new, old = (folder.with_name(f".{folder.name}.{word}") for word in ("new", "old"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if old.exists() and not folder.exists():  # a kill came between the two renames below
            old.rename(folder)
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)
        new.mkdir()
    except OSError as problem:
        reason = (problem.strerror or str(problem)).lower()
        raise FathomError(f"{given}: the folder cannot be created ({reason}); give another folder") from None
    try:
        yield new
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            old.rename(folder)
            raise
        sync(folder.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
