"""A named text from the network: fetched once over https, its sha256 checked, kept in a cache.

Without a network there is one line that says so and what to do instead.
"""

import hashlib
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from fathom.atomic import replacing
from fathom.errors import FathomError

Open = Callable[..., AbstractContextManager[Any]]


@dataclass(frozen=True)
class Remote:
    """A file on the network and what it must turn out to be."""

    name: str
    url: str
    size: int  # bytes
    sha256: str


SHAKESPEARE = Remote(
    name="shakespeare",
    url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    size=1_115_394,
    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)


def fetch(remote: Remote, cache: Path | None = None, opener: Open = urllib.request.urlopen) -> Path:
    """The path of the file in the cache, downloaded when it is not there or not what it must be."""
    path = (cache or cache_folder()) / f"{remote.name}.txt"
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == remote.sha256:
        return path
    content = _download(remote, path, opener)
    found = hashlib.sha256(content).hexdigest()
    if found != remote.sha256:
        raise FathomError(
            f"{remote.name}: {remote.url} gave {len(content)} bytes with sha256 {found[:16]}…; expected {remote.size}"
            f" bytes with {remote.sha256[:16]}…; nothing was kept; try again or pass a text file with --data FILE"
        )
    with replacing(path) as file:
        file.write(content)
    return path


def _download(remote: Remote, path: Path, opener: Open) -> bytes:
    try:
        with opener(remote.url, timeout=30) as response:
            return bytes(response.read(remote.size + 1))
    except (OSError, HTTPException) as problem:  # URLError and time-outs are OSErrors
        reason = getattr(problem, "reason", None) or problem
        raise FathomError(
            f"{remote.name}: could not be downloaded from {remote.url} ({reason}); without a network pass a text"
            f" file with --data FILE, or put the file at {path}"
        ) from None


def cache_folder() -> Path:
    """$FATHOM_CACHE, or the place where this platform keeps what can be fetched again."""
    if given := os.environ.get("FATHOM_CACHE"):
        return Path(given)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "fathom"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "fathom" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fathom"
