"""What a request must be before anything reads it: to a name of this machine, small, and from one who may ask.

A page of another site can make a browser send requests here, and a name of its own can point here (DNS rebinding):
the Host header and the Origin keep both out. Beyond them the page's own routes take a token that only the page knows,
and those of the API a key, where there are keys.
"""

import contextlib
import hashlib
import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fathom.errors import FathomError
from fathom.serve.failures import Failure

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

SPOKEN = ("1.0", "1.1")  # versions of HTTP
MOST_BODY = 1 << 20  # bytes of a request of the page
MOST_HEAD = 16 << 10  # bytes of headers
MOST_ASKED = 2 << 20  # bytes of a request to the API
ROUTES = (
    "/v1",
    "/tokenize",
    "/detokenize",
    "/metrics",
    "/health",
    "/openapi.json",
)  # of the API; all else is the page's
OPEN = ("/health",)  # routes that need no key
WRITING = ("/v1/chat/completions", "/v1/completions")  # routes whose answers the engine writes
SHORTEST = 16  # characters of a key
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),
]


Count = Callable[[str, int], None]  # is told the path and the status of an answer
Full = Callable[[], Failure | None]  # why the engine takes nothing more, where it does not


class TooLong(Exception):
    """A body that turned out longer than allowed while it was read."""


class Keys:
    """Keys that may ask, as digests: a comparison takes the same time whatever is given, and nothing can be logged."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def admit(self, authorization: str) -> bool:
        """Whether an Authorization header holds one of them."""
        kind, _, key = authorization.partition(" ")
        given = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        same = [hmac.compare_digest(given, digest) for digest in self.digests]
        return kind.lower() == "bearer" and any(same)


def read_keys(path: Path) -> Keys:
    """The keys in a file, one a line; lines that begin with # are notes. FathomError: there is none, or one is
    short."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        raise FathomError(f"--api-key-file {path} cannot be read; give a text file with a key on each line") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys or min(map(len, keys)) < SHORTEST:
        what = "a key that is short" if keys else "no key"
        raise FathomError(f"--api-key-file {path} holds {what}; expected lines of at least {SHORTEST} characters")
    return Keys(keys)


@dataclass(frozen=True)
class Rules:
    """Who may ask. hosts: what the Host header may be, such as 127.0.0.1:8000. anywhere: other machines may ask too, by
    any address; by a name only with a key. token: what the page's requests for work carry."""

    hosts: frozenset[str]
    token: str = ""
    keys: Keys | None = None
    anywhere: bool = False


class Headers:
    """Those of a request, each as often as it came."""

    def __init__(self, scope: Message) -> None:
        self.found: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            self.found.setdefault(name.lower(), []).append(value.decode("latin-1"))

    def all(self, name: bytes) -> list[str]:
        return self.found.get(name, [])

    def joined(self, name: bytes) -> str:
        return "".join(self.all(name))


class Guard:
    """The page and the API behind their checks, as ASGI calls them."""

    def __init__(
        self,
        page: App | None,
        api: App | None,
        rules: Rules,
        count: Count = lambda path, status: None,
        full: Full = lambda: None,
    ):
        """page, api: None where there is none. count: told the path and the status of every answer. full: asked before
        a request for text is read, so that a crowd is refused for little work."""
        self.page, self.api, self.rules, self.count, self.full = page, api, rules, count, full

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan" and self.page is not None:
                await self.page(scope, receive, send)
            return
        path = scope["path"]
        asked = self.page is None or any(path == route or path.startswith(f"{route}/") for route in ROUTES)
        asked = asked and (self.api is not None or path not in OPEN)
        app, most = (self.api, MOST_ASKED) if asked else (self.page, MOST_BODY)
        counted = Counted(scope, receive, send, most, self.count, plain=not asked)
        problem = self.problem(scope, asked, most)
        if app is None and problem is None:
            problem = Failure("no model that can be asked is served here: it has no tokenizer", 404)
        if problem is not None:
            await counted.refuse(problem)
            return
        assert app is not None
        with contextlib.suppress(TooLong):
            if asked and path in WRITING and (problem := self.full()) is not None:
                await counted.skip()
                await counted.refuse(problem)
                return
            await app(scope, counted.receive, counted.send)
        await counted.finish()

    def problem(self, scope: Message, asked: bool, most: int) -> Failure | None:
        """Why a request is refused; None: it may pass."""
        headers, keys = Headers(scope), self.rules.keys
        if (spoken := scope.get("http_version", "1.1")) not in SPOKEN:
            return Failure(f"the request is in HTTP {spoken}; expected {' or '.join(SPOKEN)}")
        if (size := sum(len(name) + len(value) + 4 for name, value in scope["headers"])) > MOST_HEAD:
            return Failure(f"the headers have {size:,} bytes, more than {MOST_HEAD:,}; send fewer", 431)
        key = keys is not None and keys.admit(headers.joined(b"authorization"))
        hosts = [value.lower() for value in headers.all(b"host")]
        if len(hosts) != 1 or not self.known(hosts[0], key):
            return Failure(
                f"Host is {', '.join(hosts)[:100] or 'missing'}; this server answers to {min(self.rules.hosts)}"
            )
        origins = [value.lower() for value in headers.all(b"origin")]
        if any(origin != f"http://{hosts[0]}" for origin in origins):
            return Failure(f"Origin is {origins[0][:100]}; only the page of this server may ask", 403)
        if asked and keys is not None and not key and scope["path"] not in OPEN:
            return Failure("the key is missing or wrong; send the header Authorization: Bearer KEY", 401)
        if scope["method"] in ("GET", "HEAD"):
            return None
        return self.of_work(headers, asked, most)

    def known(self, host: str, key: bool) -> bool:
        """Whether a Host header names this machine: by a name of its own, and where others may ask, by an address."""
        if host in self.rules.hosts:
            return True
        if not self.rules.anywhere:
            return False
        name, _, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
        with contextlib.suppress(ValueError):
            ipaddress.ip_address((name if port.isdigit() else host).strip("[]"))
            return True
        return key or (name or host) == "localhost"

    def of_work(self, headers: Headers, asked: bool, most: int) -> Failure | None:
        """The same for a request with a body."""
        kinds = [value.split(";")[0].strip().lower() for value in headers.all(b"content-type")]
        if kinds != ["application/json"]:
            return Failure(f"Content-Type is {', '.join(kinds)[:100] or 'missing'}; expected application/json", 415)
        token = headers.joined(b"x-fathom-token").encode("latin-1")
        if not asked and not hmac.compare_digest(token, self.rules.token.encode()):
            return Failure("the token is missing or of another start of this server; load the page again", 403)
        length = headers.joined(b"content-length")
        if length.isascii() and length.isdigit() and (len(length) > 18 or int(length) > most):
            return Failure(f"the request has {length[:18]} bytes, more than {most:,}; shorten it", 413)
        return None


class Counted:
    """A request whose body may have so many bytes, and what is answered to it. plain: its errors are the page's, one
    line; else OpenAI's."""

    def __init__(self, scope: Message, receive: Receive, send: Send, most: int, count: Count, plain: bool) -> None:
        self.given, self.out, self.most, self.plain = receive, send, most, plain
        self.path, self.count = scope["path"], count
        self.size, self.refused = 0, False

    async def receive(self) -> Message:
        message = await self.given()
        self.size += len(message.get("body", b""))
        if self.size > self.most:
            raise TooLong
        return message

    async def skip(self) -> None:
        """Take the body and forget it: a client that is still sending when the connection ends may miss the answer."""
        while (await self.receive()).get("more_body"):
            pass

    async def send(self, message: Message) -> None:
        if self.size > self.most:  # whatever the application made of it
            await self.finish()
            return
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *HEADERS]
            self.count(self.path, message["status"])
        await self.out(message)

    async def finish(self) -> None:
        """Say that the body was too long, where it was and nobody has said so."""
        if self.size > self.most and not self.refused:
            self.refused = True
            await self.refuse(Failure(f"the request is longer than {self.most:,} bytes; shorten the prompt", 413))

    async def refuse(self, failure: Failure) -> None:
        """The failure as JSON, and the end of the connection."""
        body = json.dumps({"error": str(failure)} if self.plain else failure.body()).encode()
        more = [(name.lower().encode(), value.encode()) for name, value in failure.headers.items()]
        own = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers = [*own, *more, *HEADERS, (b"connection", b"close")]
        self.count(self.path, failure.status)
        await self.out({"type": "http.response.start", "status": failure.status, "headers": headers})
        await self.out({"type": "http.response.body", "body": body})
