"""Verbs and options are promises to those who type them: what is there is listed in verbs.txt, and both must agree.

`python -m tests.house.test_verbs > tests/house/verbs.txt` writes the list anew; a line that goes is a broken promise.
"""

import sys
from pathlib import Path

import click

from fathom.cli.main import VERBS, verbs

LIST = Path(__file__).with_name("verbs.txt")


def described() -> list[str]:
    """`verb`, then each argument and each option with all its names, one a line."""
    context, lines = click.Context(verbs), []
    for name in VERBS:
        command = verbs.get_command(context, name)
        assert command is not None
        parameters = [" ".join([*sorted(p.opts, key=len), *p.secondary_opts]) for p in command.params]
        lines += [name, *sorted(f"    {text}" for text in parameters)]
    return lines


def test_verbs_and_options_are_those_listed() -> None:
    assert described() == LIST.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    sys.stdout.write("\n".join(described()) + "\n")
