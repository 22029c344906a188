"""The socket, the browser, and the end."""

import asyncio
import contextlib
import os
import socket
import sys
import webbrowser
from collections.abc import Callable

import uvicorn

from fathom.errors import FathomError
from fathom.serve.app import application
from fathom.serve.shelf import Shelf

LOOPBACK = ("127.0.0.1", "localhost", "::1")
GRACE = 10  # seconds that a stream may take to end once the server is stopped


def bound(host: str, port: int) -> socket.socket:
    """A listening socket. FathomError: the address is not this machine's own, or the port is in use."""
    if host not in LOOPBACK:
        raise FathomError(
            f"--host is {host}; the page has no password, so it is served to this machine alone: expected "
            f"{' or '.join(LOOPBACK)}; from elsewhere use ssh -L {port}:127.0.0.1:{port}"
        )
    made = socket.socket(socket.AF_INET6 if host == "::1" else socket.AF_INET)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(128)
    except OSError as error:
        made.close()
        raise FathomError(
            f"port {port} of {host} cannot be used ({(error.strerror or str(error)).lower()}); choose another: "
            f"--port {port + 1 if port < 65535 else 8000}, or --port 0 for any that is free"
        ) from error
    return made


def serve(shelf: Shelf, host: str, port: int, prompt: str, open_page: bool, ready: Callable[[str], None]) -> None:
    """Serve these models until the process is interrupted. ready: called with the page's address once it answers."""
    listening = bound(host, port)
    port = listening.getsockname()[1]
    hosts = frozenset(f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]"))
    config = uvicorn.Config(
        application(shelf, hosts, prompt),
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE,
        h11_max_incomplete_event_size=16 << 10,
        http="h11",
        ws="none",
    )
    address = f"http://{'[::1]' if host == '::1' else host}:{port}/"

    async def run() -> None:
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if server.started:
            ready(address)
            if open_page and desktop():
                webbrowser.open(address)
        await serving

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run())


def desktop() -> bool:
    """Whether there is a screen on which a browser could open."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
