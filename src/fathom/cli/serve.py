"""`fathom serve MODEL`: the page of a model, on this machine, until Ctrl-C."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from fathom.cli.completion import models
from fathom.cli.options import option, verb
from fathom.cli.streams import say
from fathom.errors import FathomError

if TYPE_CHECKING:
    from fathom.glass.subject import Subject

ABOUT = """Open a page that shows what a model computes, on this machine alone, until Ctrl-C.

Several models can be compared on it, and a folder of runs shows them all, also while they train.
"""
ADAPTER = "An adapter of the first model: a model of its own, to be chosen beside the first."


@verb("serve", ABOUT, as_json=False, example="fathom serve runs/demo")
@click.argument("models", nargs=-1, required=True, shell_complete=models, metavar="MODEL...")
@option("-p", "--prompt", metavar="TEXT", shown="a greeting", help="Text that the page shows first.")
@option("--adapter", "adapters", metavar="NAME=FOLDER", multiple=True, help=ADAPTER)
@option("--quantize", metavar="NAME", choices=("int8", "int4", "nf4", "keep"), help="Pack the matrices of the blocks.")
@option("--host", metavar="ADDRESS", shown="127.0.0.1", help="Address of this machine to listen at.")
@option("--port", type=int, metavar="N", shown="8000", help="Port to listen at; 0 is any that is free.")
@option("--open/--no-open", "open_page", default=None, shown="on, where there is a desktop", help="Open a browser.")
def serve_command(models: tuple[str, ...], adapters: tuple[str, ...], port: int | None, **call: Any) -> None:
    port = 8000 if port is None else port
    if not 0 <= port < 1 << 16:
        raise FathomError(f"--port is {port}; expected 0 to 65535")
    if missing := [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]:
        raise FathomError(f"fathom serve needs {' and '.join(missing)}: pip install 'fathom-lm[serve]'")
    from fathom.glass.bundle import outdated
    from fathom.serve.server import serve
    from fathom.serve.shelf import shelf

    if line := outdated():
        say(line, err=True)
    shown = shelf(models, dict(map(named, adapters)), call["quantize"])
    shown.check()  # a mistake ends here, not on the page
    prompt = first_prompt(shown.open(shown.names()[0]), call["prompt"])
    open_page = call["open_page"] is not False

    def ready(address: str) -> None:
        say(f"{', '.join(shown.names())}: {address} (Ctrl-C stops)")

    serve(shown, call["host"] or "127.0.0.1", port, prompt, open_page, ready)


PROMPTS = ("Once upon a time, there was a little girl", "the cat sat the cat sat", "1 2 3 4 1 2 3 4")


def first_prompt(subject: "Subject", given: str | None) -> str:
    """The given text, or the first of PROMPTS that the model can read; "" where it can read none. FathomError: it
    cannot read what was given."""
    from fathom.glass.passes import first_pass

    for text in [given] if given else PROMPTS:
        try:
            first_pass(subject, text)
        except FathomError:
            if given:
                raise
        else:
            return text
    return ""


def named(text: str) -> tuple[str, str]:
    """NAME=FOLDER in two."""
    name, equals, folder = text.partition("=")
    if not name or not equals or not folder:
        raise FathomError(f"--adapter is {text}; expected NAME=FOLDER, such as --adapter poet=runs/poet")
    return name, folder
