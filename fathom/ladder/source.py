"""The lines that run, as text: what a page quotes is read from the program at that moment."""

import inspect
import textwrap
from importlib import import_module
from pathlib import PurePosixPath
from typing import Any


def source(reference: str) -> str:
    """The source of "fathom/model/attention.py:attend" or "...:Class.method", its indentation removed."""
    path, _, name = reference.partition(":")
    found: Any = import_module(".".join(PurePosixPath(path).with_suffix("").parts))
    for part in name.split("."):
        found = getattr(found, part)
    return textwrap.dedent(inspect.getsource(found))
