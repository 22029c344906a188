"""What a request must be before anything reads it: from this machine, to a name of this machine, small, and, where it
asks for work, from the page itself.

A page of another site can make a browser send requests here, and a name of its own can point here (DNS rebinding):
the Host header, the Origin and a token that only our page knows keep both out.
"""

import contextlib
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

MOST_BODY = 1 << 20  # bytes
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),
]


class TooLong(Exception):
    """A body that turned out longer than allowed while it was read."""


class Guard:
    """The application behind its checks, as ASGI calls it."""

    def __init__(self, app: App, hosts: frozenset[str], token: str) -> None:
        """hosts: what the Host header may be, such as 127.0.0.1:8000. token: what requests that ask for work carry."""
        self.app, self.hosts, self.token = app, hosts, token

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        if problem := self.problem(scope):
            await refuse(send, *problem)
            return
        count, refused = 0, False

        async def counted() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > MOST_BODY:
                raise TooLong
            return message

        async def answered(message: Message) -> None:
            nonlocal refused
            if count > MOST_BODY:  # whatever the application made of it
                if not refused:
                    refused = True
                    await refuse(send, 413, f"the request is longer than {MOST_BODY:,} bytes; shorten the prompt")
                return
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        with contextlib.suppress(TooLong):
            await self.app(scope, counted, answered)
        if count > MOST_BODY and not refused:
            await answered({"type": "http.response.start"})

    def problem(self, scope: Message) -> tuple[int, str] | None:
        """The status and the reason with which a request is refused; None: it may pass."""
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value)
        hosts = [value.decode("latin-1").lower() for value in headers.get(b"host", [])]
        if len(hosts) != 1 or hosts[0] not in self.hosts:
            return 400, f"Host is {', '.join(hosts) or 'missing'}; this server answers to {min(self.hosts)}"
        origins = [value.decode("latin-1").lower() for value in headers.get(b"origin", [])]
        if any(origin != f"http://{hosts[0]}" for origin in origins):
            return 403, f"Origin is {origins[0]}; only the page of this server may ask"
        if scope["method"] in ("GET", "HEAD"):
            return None
        kinds = [value.decode("latin-1").split(";")[0].strip().lower() for value in headers.get(b"content-type", [])]
        if kinds != ["application/json"]:
            return 415, f"Content-Type is {', '.join(kinds) or 'missing'}; expected application/json"
        given = b"".join(headers.get(b"x-fathom-token", []))
        if not hmac.compare_digest(given, self.token.encode()):
            return 403, "the token is missing or of another start of this server; load the page again"
        length = b"".join(headers.get(b"content-length", []))
        if length.isdigit() and int(length) > MOST_BODY:
            return 413, f"the request has {int(length):,} bytes, more than {MOST_BODY:,}; shorten the prompt"
        return None


async def refuse(send: Send, status: int, reason: str) -> None:
    """One line as JSON."""
    body = json.dumps({"error": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
