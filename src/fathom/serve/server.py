"""The socket, the browser, and the end."""

import asyncio
import contextlib
import os
import secrets
import socket
import sys
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass

import uvicorn

from fathom.errors import FathomError
from fathom.serve import api
from fathom.serve.app import page_application
from fathom.serve.connection import Connection
from fathom.serve.guard import MOST_HEAD, App, Guard, Keys, Rules
from fathom.serve.served import Served
from fathom.serve.shelf import Shelf
from fathom.serve.worker import InTurn, Worker

LOOPBACK = ("127.0.0.1", "localhost", "::1")
GRACE = 10  # seconds that a stream may take to end once the server is stopped
BACKLOG = 1024  # connections that may wait to be taken


@dataclass(frozen=True)
class Place:
    """Where is listened, and who may ask. prompt: what the page shows first; None: what the model can read."""

    host: str
    port: int
    prompt: str | None = None
    open_page: bool = False
    keys: Keys | None = None
    no_auth: bool = False

    @property
    def loopback(self) -> bool:
        return self.host in LOOPBACK

    def check(self) -> None:
        """FathomError: others could ask, and nothing says that they may."""
        if not self.loopback and self.keys is None and not self.no_auth:
            raise FathomError(
                f"--host is {self.host}, where other machines may ask; expected --api-key-file with the keys of those"
                f" who may, or --no-auth; or stay at {LOOPBACK[0]} and use ssh -L {self.port}:127.0.0.1:{self.port}"
            )

    def rules(self, port: int, token: str) -> Rules:
        names = ("127.0.0.1", "localhost", "[::1]", *(() if self.loopback else (socket.gethostname().lower(),)))
        return Rules(frozenset(f"{name}:{port}" for name in names), token, self.keys, not self.loopback)

    def bound(self) -> socket.socket:
        """A listening socket. FathomError: the address is not this machine's own, or the port is in use."""
        host, port = self.host, self.port
        made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((host, port))
            made.listen(BACKLOG)
        except OSError as error:
            made.close()
            raise FathomError(
                f"port {port} of {host} cannot be used ({(error.strerror or str(error)).lower()}); choose another: "
                f"--port {port + 1 if port < 65535 else 8000}, or --port 0 for any that is free"
            ) from error
        return made


class Server(uvicorn.Server):
    """Uvicorn, which first lets the worker's requests end."""

    worker: Worker | None = None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.worker is not None:
            await self.worker.stop(GRACE, lambda: self.force_exit)
        await super().shutdown(sockets)


@dataclass(frozen=True)
class House:
    """The page and the API of some models, behind one guard."""

    app: App
    worker: Worker | None
    routes: tuple[str, ...]


def house(shelf: Shelf, served: Served | None, place: Place, port: int, log: Callable[[str], None]) -> House:
    """What is served at a port. The page is for this machine alone: elsewhere there is only the API."""
    turn, token = InTurn(), secrets.token_urlsafe(32)
    page = page_application(shelf, token, place.prompt, turn) if place.loopback else None
    rules = place.rules(port, token)
    if served is None:
        return House(Guard(page, None, rules), None, ("/",) if page else ())
    worker = Worker(served.engine(), turn)
    app = api.application(served, worker, log)
    routes = ("/",) * (page is not None) + tuple(app.openapi()["paths"])
    return House(Guard(page, app, rules, app.state.api.count), worker, routes)


def serve(
    shelf: Shelf,
    served: Served | None,
    place: Place,
    ready: Callable[[str], None],
    log: Callable[[str], None] = lambda line: None,
) -> None:
    """Serve these models until the process is interrupted. served: the one that the API answers with. ready: called
    with the address once it answers. log: called with a line for each request to a model."""
    place.check()
    listening = place.bound()
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

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run())


def desktop() -> bool:
    """Whether there is a screen on which a browser could open."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
