"""The socket, the browser, and the end."""

import asyncio
import contextlib
import gc
import os
import secrets
import socket
import sys
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass

import uvicorn

from fathom.serve import api
from fathom.serve.connection import Connection
from fathom.serve.guard import MOST_HEAD, App, Guard, Message, Receive, Send
from fathom.serve.place import Place
from fathom.serve.served import Served
from fathom.serve.shelf import Shelf
from fathom.serve.worker import InTurn, Worker

SWITCH = 0.0005  # seconds after which a thread of Python that computes makes way for one that waits
GRACE = 10  # seconds that a stream may take to end once the server is stopped


class Server(uvicorn.Server):
    """Uvicorn, which first lets the worker's requests end."""

    worker: Worker | None = None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.worker is not None:
            await self.worker.stop(GRACE, lambda: self.force_exit)
        await super().shutdown(sockets)


class Page:
    """The page, made when it is first asked for: clients of the API wait for none of its parts."""

    def __init__(self, shelf: Shelf, token: str, prompt: str | None, turn: InTurn) -> None:
        self.given, self.making = (shelf, token, prompt, turn), asyncio.Lock()
        self.app: App | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        async with self.making:
            if self.app is None:
                self.app = await asyncio.to_thread(self.make)
        await self.app(scope, receive, send)

    def make(self) -> App:
        from fathom.serve.app import page_application

        return page_application(*self.given)


@dataclass(frozen=True)
class House:
    """The page and the API of some models, behind one guard."""

    app: App
    worker: Worker | None
    routes: tuple[str, ...]


def house(shelf: Shelf, served: Served | None, place: Place, port: int, log: Callable[[str], None]) -> House:
    """What is served at a port. The page is for this machine alone: elsewhere there is only the API."""
    turn, token = InTurn(), secrets.token_urlsafe(32)
    page = Page(shelf, token, place.prompt, turn) if place.loopback else None
    rules = place.rules(port, token)
    if served is None:
        return House(Guard(page, None, rules), None, ("/",) if page else ())
    worker = Worker(served.engine(), turn)
    app = api.application(served, worker, log)
    routes = ("/",) * (page is not None) + tuple(app.openapi()["paths"])
    return House(Guard(page, app, rules, app.state.api.count, worker.full), worker, routes)


def serve(
    shelf: Shelf,
    served: Served | None,
    place: Place,
    listening: socket.socket,
    ready: Callable[[str], None],
    log: Callable[[str], None] = lambda line: None,
) -> None:
    """Serve these models until the process is interrupted. served: the one that the API answers with. listening: a
    socket of the place. ready: called with the address once it answers. log: called with a line for each request to a
    model."""
    port = listening.getsockname()[1]
    built = house(shelf, served, place, port, log)
    config = uvicorn.Config(
        built.app,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE,
        h11_max_incomplete_event_size=MOST_HEAD,
        http=Connection,
        ws="none",
        lifespan="off",
    )
    address = f"http://{f'[{place.host}]' if ':' in place.host else place.host}:{port}/"

    async def run() -> None:
        server = Server(config)
        server.worker = built.worker
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if server.started:
            ready(address)
            if place.open_page and place.loopback and desktop():
                webbrowser.open(address)
        await serving

    place.listen(listening)
    gc.collect()
    gc.freeze()  # what is here stays, and need not be gone through again
    gc.enable()
    sys.setswitchinterval(SWITCH)  # the loop waits for the engine's thread after each word to a socket
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run())


def desktop() -> bool:
    """Whether there is a screen on which a browser could open."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
