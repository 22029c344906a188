"""Where is listened, and who may ask there."""

import socket
from dataclasses import dataclass

from fathom.errors import FathomError
from fathom.serve.guard import Keys, Rules

LOOPBACK = ("127.0.0.1", "localhost", "::1")
BACKLOG = 1024  # connections that may wait to be taken


@dataclass(frozen=True)
class Place:
    """An address of this machine. prompt: what the page shows first; None: what the model can read."""

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
            port = self.port or 8000
            raise FathomError(
                f"--host is {self.host}, where other machines may ask; expected --api-key-file with the keys of those"
                f" who may, or --no-auth; or stay at {LOOPBACK[0]} and use ssh -L {port}:127.0.0.1:{port}"
            )

    def rules(self, port: int, token: str) -> Rules:
        names = ("127.0.0.1", "localhost", "[::1]", *(() if self.loopback else (socket.gethostname().lower(),)))
        return Rules(frozenset(f"{name}:{port}" for name in names), token, self.keys, not self.loopback)

    def bound(self) -> socket.socket:
        """A socket with this address, which refuses whoever calls until it listens. FathomError: the address is not
        this machine's own, or the port is in use."""
        made = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((self.host, self.port))
        except OSError as error:
            made.close()
            raise self.taken(error) from error
        return made

    def listen(self, made: socket.socket) -> None:
        """Let callers in. FathomError: another listens there by now."""
        try:
            made.listen(BACKLOG)
        except OSError as error:
            raise self.taken(error) from error

    def taken(self, error: OSError) -> FathomError:
        host, port = self.host, self.port
        return FathomError(
            f"port {port} of {host} cannot be used ({(error.strerror or str(error)).lower()}); choose another: "
            f"--port {port + 1 if port < 65535 else 8000}, or --port 0 for any that is free"
        )
