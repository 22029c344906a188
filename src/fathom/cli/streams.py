"""The standard streams of a call: there where the shell has closed them, and written whatever their encoding.

A terminal or a pipe may hold fewer characters than a model writes: on Windows a pipe is often cp1252. What it cannot
hold is escaped, as \\u23ce; from there on all is ASCII, which reads the same wherever the text goes.
"""

import io
import os
import shutil
import sys

import click

from fathom.words import fitted

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
            if mode == "w" and not can_hold(stream.encoding, "\U0010ffff"):
                escape(stream)


def say(text: str, err: bool = False) -> None:
    """Write lines to stdout or stderr; on a terminal none is longer than it is wide, so that no word is broken."""
    if (sys.stderr if err else sys.stdout).isatty():
        text = fitted(text, shutil.get_terminal_size().columns)
    click.echo(text, err=err)


def escape(stream: io.TextIOWrapper) -> None:
    """Make a stream ASCII as soon as it is given a text that its encoding cannot hold."""
    write = stream.write

    def checked(text: str) -> int:
        if not can_hold(stream.encoding, text):
            stream.reconfigure(encoding="ascii", errors="backslashreplace")
        return write(text)

    setattr(stream, "write", checked)  # noqa: B010 (an instance may have its own)


def can_hold(encoding: str, text: str) -> bool:
    """Whether an encoding has every character of a text."""
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
