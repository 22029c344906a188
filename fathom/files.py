"""What a path must be before it is opened: a pipe or a device would keep a reader waiting for ever."""

import stat
from pathlib import Path

from fathom.errors import FathomError


def refuse_pipes(place: Path) -> None:
    """FathomError where this is neither a file nor a folder of files and folders. What does not exist is let pass."""
    for path in (place, *(place.iterdir() if place.is_dir() else ())):
        if path.exists() and not (stat.S_ISREG(mode := path.stat().st_mode) or stat.S_ISDIR(mode)):
            raise FathomError(f"{path} is a pipe or a device; expected files and folders: remove it or name another")
