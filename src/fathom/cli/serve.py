"""`fathom serve MODEL`: the page of a model, and OpenAI's API, on this machine until Ctrl-C."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from socket import socket
from threading import Thread
from typing import TYPE_CHECKING, Any

import click

from fathom.cli.completion import models
from fathom.cli.options import WholeNumber, option, verb
from fathom.cli.streams import say
from fathom.errors import FathomError

if TYPE_CHECKING:
    from fathom.serve.place import Place

ABOUT = """Serve a model: a page that shows what it computes, and OpenAI's API for any client, until Ctrl-C.

Several models can be compared on the page, and a folder of runs shows them all, also while they train; the API answers
with the first model and its adapters.
"""
ADAPTER = "An adapter of the first model: a model of its own, on the page and for clients."
NEEDED = ("fastapi", "uvicorn", "prometheus_client")
FLIGHT = "Tokens of all requests together that the cache holds."


@verb(
    "serve",
    ABOUT,
    as_json=False,
    example="fathom serve runs/demo",
    groups={
        "Models": "adapters quantize alias max_tokens_in_flight",
        "Clients": "host port api_key_file no_auth check",
        "Page": "prompt open_page",
    },
)
@click.argument("models", nargs=-1, required=True, shell_complete=models, metavar="MODEL...")
@option("-p", "--prompt", metavar="TEXT", shown="a greeting", help="Text that the page shows first.")
@option("--adapter", "adapters", metavar="NAME=FOLDER", multiple=True, help=ADAPTER)
@option("--quantize", metavar="NAME", choices=("int8", "int4", "nf4", "keep"), help="Pack the matrices of the blocks.")
@option("--alias", metavar="NAME", shown="the file or folder", help="What clients call the first model.")
@option("--max-tokens-in-flight", type=WholeNumber(16), metavar="N", shown="a quarter of the free memory", help=FLIGHT)
@option("--host", metavar="ADDRESS", shown="127.0.0.1", help="Address of this machine to listen at.")
@option("--port", type=int, metavar="N", shown="8000", help="Port to listen at; 0 is any that is free.")
@option(
    "--api-key-file",
    metavar="FILE",
    shown="no key is asked for",
    help="A file with a key on each line; clients must send one.",
)
@option("--no-auth", is_flag=True, help="Let anyone ask who reaches the address.")
@option("--check", is_flag=True, help="Say what would be served, and exit.")
@option("--open/--no-open", "open_page", default=None, shown="on, where there is a desktop", help="Open a browser.")
def serve_command(models: tuple[str, ...], adapters: tuple[str, ...], port: int | None, **call: Any) -> None:
    port = 8000 if port is None else port
    if not 0 <= port < 1 << 16:
        raise FathomError(f"--port is {port}; expected 0 to 65535")
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise FathomError(f"fathom serve needs {' and '.join(missing)}: pip install 'fathom-lm[serve]'")
    from fathom.serve.guard import read_keys
    from fathom.serve.place import Place

    keys = read_keys(Path(call["api_key_file"])) if call["api_key_file"] else None
    place = Place(
        call["host"] or "127.0.0.1", port, call["prompt"], call["open_page"] is not False, keys, call["no_auth"]
    )
    place.check()
    with place.bound() as listening, uncollected():
        open_and_serve(models, dict(map(named, adapters)), place, listening, call)


def open_and_serve(
    models: tuple[str, ...], adapters: dict[str, str], place: Place, listening: socket, call: dict[str, Any]
) -> None:
    """The rest, once the port is ours. call: the other options."""
    from fathom.glass.bundle import outdated
    from fathom.serve.served import open_served
    from fathom.serve.shelf import shelf

    if line := outdated():
        say(line, err=True)
    shown = shelf(models, adapters, call["quantize"])
    shown.check()  # a mistake ends here, not on the page
    Thread(target=lambda: list(map(import_module, NEEDED)), daemon=True).start()  # while weights are read
    if call["prompt"]:
        from fathom.serve.desk import first_prompt

        first_prompt(shown.open, shown.names()[0], call["prompt"])
    first = next(iter(shown.places))
    name = call["alias"] or first.replace(" ", "-")
    served = open_served(shown.places[first], name, adapters, call["max_tokens_in_flight"])
    for line in served.describe() if served else ["no API: the model has no tokenizer"]:
        say(line, err=True)
    from fathom.serve.server import house, serve

    if call["check"]:
        for line in house(shown, served, place, place.port, lambda line: None).routes:
            say(line)
        return

    def ready(address: str) -> None:
        api = f", OpenAI's API at {address}v1 as {', '.join(served.names)}" if served else ""
        say(f"{', '.join(shown.names())}: {address}{api} (Ctrl-C stops)")

    def log(line: str) -> None:
        say(f"{time.strftime('%H:%M:%S')} {line}", err=True)

    serve(shown, served, place, listening, ready, log)


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the search for cycles of objects: torch and a vocabulary are a million that stay, and are gone through
    again and again while they are made."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def named(text: str) -> tuple[str, str]:
    """NAME=FOLDER in two."""
    name, equals, folder = text.partition("=")
    if not name or not equals or not folder:
        raise FathomError(f"--adapter is {text}; expected NAME=FOLDER, such as --adapter poet=runs/poet")
    return name, folder
