"""Many clients at once: streams over sockets of their own, from one event loop."""

import asyncio
import json
import socket
import struct
import time
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

TEXT = "/v1/completions"
T = TypeVar("T")


def run_alone(what: Coroutine[Any, Any, T]) -> T:
    """Its result, from a thread of its own: a browser's tests leave an event loop in the main one."""
    with ThreadPoolExecutor(1) as own:
        return own.submit(asyncio.run, what).result()


@dataclass
class Told:
    """What was answered: the status, what came after the head, and seconds until the last of it."""

    status: int = 0
    body: bytes = b""
    seconds: float = 0.0
    ended: bool = False  # as HTTP says: by the last chunk, or at its length

    @property
    def events(self) -> list[dict[str, Any]]:
        lines = [line.removeprefix(b"data: ") for line in self.body.split(b"\n\n") if line]
        return [json.loads(line) for line in lines if line != b"[DONE]"]

    @property
    def whole(self) -> bool:
        """Whether it is a stream that ended as streams do."""
        return self.status == 200 and self.ended and self.body.endswith(b"data: [DONE]\n\n")

    @property
    def said(self) -> list[Any]:
        """All that depends on the model: texts, tokens with their log-probabilities to the last bit, and the ends."""
        keys = ("index", "text", "logprobs", "finish_reason")
        return [[choice[key] for key in keys] for event in self.events for choice in event["choices"]]


def head(port: int, method: str, path: str, length: int) -> bytes:
    lines = (f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Content-Type: application/json",
             f"Content-Length: {length}", "Connection: close")  # fmt: skip
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def ask(port: int, body: Mapping[str, Any] | None, path: str = TEXT) -> Told:
    """The answer to a request of its own connection. body None: GET."""
    sent = b"" if body is None else json.dumps(body).encode()
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head(port, "GET" if body is None else "POST", path, len(sent)) + sent)
        await writer.drain()
        whole = await reader.read()
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    return read(whole, time.monotonic() - began)


def read(whole: bytes, seconds: float) -> Told:
    """An answer as it came over the wire."""
    start, _, rest = whole.partition(b"\r\n\r\n")
    status = int(start.split(b" ", 2)[1]) if start.startswith(b"HTTP/1.1 ") else 0
    if b"transfer-encoding: chunked" not in start.lower():
        return Told(status, rest, seconds, True)
    body, ended = b"", False
    while rest and not ended:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        body, ended, rest = body + rest[:length], length == 0, rest[length + 2 :]
    return Told(status, body, seconds, ended)


async def leave(port: int, body: Mapping[str, Any], after: float, reset: bool) -> None:
    """Ask, read for so many seconds, and go: with RST or with FIN."""
    sent = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head(port, "POST", TEXT, len(sent)) + sent)
    with suppress(TimeoutError):
        await asyncio.wait_for(reader.read(), after)
    if reset:
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@dataclass
class Tally:
    """What a crowd was told."""

    requests: int = 0
    tokens: int = 0
    wrong: list[str] = field(default_factory=list)


async def crowd(
    port: int, kinds: list[dict[str, Any]], streams: int, seconds: float, expected: list[Any], tally: Tally
) -> None:
    """So many streams at once for so long, each one kind after another, compared with what is expected of it."""
    until = time.monotonic() + seconds

    async def one(place: int) -> None:
        while time.monotonic() < until:
            place = (place * 31 + 7) % len(kinds)
            told = await ask(port, kinds[place])
            tally.requests += 1
            tally.tokens += len(told.said) if told.whole else 0
            if not told.whole or told.said != expected[place]:
                tally.wrong.append(f"kind {place}: status {told.status}, {told.body[-300:]!r}")
            place += 1 + tally.requests % 5

    await asyncio.gather(*(one(place) for place in range(streams)))
