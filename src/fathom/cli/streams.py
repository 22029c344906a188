"""The standard streams of a call: there where the shell has closed them, and written whatever their encoding.

A terminal or a pipe may hold fewer characters than a model writes: on Windows a pipe is often cp1252. What it cannot
hold is escaped, as \\u23ce.
"""

import io
import os
import sys

MODES = {"stdin": "r", "stdout": "w", "stderr": "w"}


def prepare_streams() -> None:
    """Replace streams that are closed by empty ones, and escape what the others cannot hold.

    A closed stream gets its own descriptor again, the lowest one: the next file that is opened would get it, and what
    a library prints would go into that file.
    """
    for name, mode in MODES.items():
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 (kept until exit)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape" if mode == "r" else "backslashreplace")


def can_hold(encoding: str, text: str) -> bool:
    """Whether an encoding has every character of a text."""
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
