"""`fathom look MODEL -p TEXT -o look.html`: what a model computes for a prompt, as one page that opens from disk."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fathom.cli.generate import read_prompt
from fathom.cli.options import model_argument, option, print_json, seed_option, verb
from fathom.cli.streams import say
from fathom.errors import FathomError
from fathom.words import counted

ABOUT = """Write a page of what a model computes for a prompt: attention, the residual stream, every check of it.

The page is one file that opens from disk, without a network. Exit code 1 when a check fails.
"""
PNG = "Also write a picture of each panel there, by a Chromium that is installed."
ADAPTER = "PEFT folder; with --beside MODEL the page shows what it changed."
PANELS = "Panels to show, separated by commas, such as heads,lens."


@verb("look", ABOUT, example='fathom look runs/demo -p "def read(self" -o look.html')
@model_argument
@option("-p", "--prompt", metavar="TEXT", required=True, help="Text to look at; - reads stdin, FILE:PATH a file.")
@option("-o", "--out", type=click.Path(path_type=Path), metavar="FILE.html", shown="look.html", help="Page to write.")
@option("--beside", metavar="OTHER", help="Another model, shown beside the first on the same prompt.")
@option("--panels", metavar="NAMES", shown="all", help=PANELS)
@option("--adapter", "adapters", type=click.Path(path_type=Path), metavar="FOLDER", multiple=True, help=ADAPTER)
@option("--quantize", metavar="NAME", choices=("int8", "int4", "nf4", "keep"), help="Pack the matrices of the blocks.")
@option("--png", "folder", type=click.Path(path_type=Path), metavar="FOLDER", help=PNG)
@seed_option
def look_command(
    model: str, prompt: str, out: Path | None, beside: str | None, panels: str | None, as_json: bool, **call: Any
) -> int:
    if beside is not None and not beside.strip():
        raise FathomError("--beside is empty; expected a second model, such as --beside runs/other")
    from fathom.files import replacing
    from fathom.glass.bundle import outdated
    from fathom.glass.document import document
    from fathom.glass.panels import PANELS as every
    from fathom.glass.panels import entry
    from fathom.glass.passes import first_pass, pair
    from fathom.glass.pictures import check_place, pictures
    from fathom.glass.subject import open_subject

    if line := outdated():
        say(line, err=True)
    out = out or Path("look.html")
    if out.suffix not in (".html", ".htm"):
        raise FathomError(f"--out is {out}; expected a name that ends in .html")
    if out.is_dir():
        raise FathomError(f"--out is {out}, which is a folder; give the name of a file")
    chosen = list(dict.fromkeys(name.strip() for name in panels.split(","))) if panels is not None else []
    for name in chosen:
        entry(name)
    if call["folder"] is not None:
        check_place(call["folder"])
    text, seed = read_prompt(prompt), call["seed"] or 0
    first = open_subject(model, quantize=call["quantize"], adapters=call["adapters"])
    run = first_pass(first, text, seed) if beside is None else pair(first, open_subject(beside), text, seed)[0]
    made = document(run, chosen, text, slow_progress())
    with replacing(out) as file:
        file.write(made.html.encode())
    if call["folder"] is not None:
        pictures(out, chosen or list(every), call["folder"])
    n_checks = sum(len(panel.checks) for panel in made.panels.values())
    say(f"{out}: {counted(run.t, 'token')}, {counted(n_checks, 'check')}", err=True)
    if call["adapters"] and beside is None:
        say(f"to see what the adapter changed, show the model without it too: --beside {model}", err=True)
    for line in made.failed:
        say(f"check failed: {line}", err=True)
    if as_json:
        print_json({"page": str(out), "tokens": run.t, "checks": n_checks, "failed": made.failed})
    return int(bool(made.failed))


PATIENCE = 3.0  # seconds without a word


def slow_progress() -> Callable[[str, int, int], None]:
    """Says on stderr which panel is computed, once a page takes longer than PATIENCE."""
    start = time.monotonic()

    def tell(title: str, n: int, total: int) -> None:
        if time.monotonic() - start > PATIENCE:
            say(f"panel {n} of {total}: {title}", err=True)

    return tell
