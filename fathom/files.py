"""Files that are complete or not there: written beside their place, put on disk, then moved into it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from fathom.errors import FathomError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` when all of it is on disk; when anything fails, nothing changes."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except BaseException as problem:
        with suppress(OSError):
            partial.unlink()
        if not isinstance(problem, OSError):
            raise
        reason = problem.strerror or str(problem)
        raise FathomError(f"{path}: could not be written ({reason}); nothing was changed there") from problem


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on disk, so that a rename outlives a power cut. Not possible on Windows."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
