"""A connection that does not wait for ever: for headers that come a letter at a time, or for a body that never ends.

Uvicorn closes what is idle between two requests, and what says more than h11 takes; this adds a time for each request
to have arrived.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0  # in which the headers of a request are there
BODY_SECONDS = 30.0  # in which its body is


class Connection(H11Protocol):
    """Uvicorn's protocol over h11, with a clock for each request."""

    clock: asyncio.TimerHandle | None = None
    waits = ""  # for what the clock runs

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.attend()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.attend()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.attend()

    def connection_lost(self, exc: Exception | None) -> None:
        self.run_clock("")
        super().connection_lost(exc)

    def attend(self) -> None:
        """Run the clock for what the request still lacks: its head, then its body; between two requests uvicorn's own
        runs."""
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            self.run_clock("body")
        elif state is h11.IDLE and (self.timeout_keep_alive_task is None or self.conn.trailing_data[0]):
            self.run_clock("head")
        else:
            self.run_clock("")

    def run_clock(self, waits: str) -> None:
        """Begin to wait for something; what is waited for already keeps its time."""
        if waits == self.waits:
            return
        self.waits = waits
        if self.clock is not None:
            self.clock.cancel()
            self.clock = None
        if waits:
            self.clock = self.loop.call_later(HEAD_SECONDS if waits == "head" else BODY_SECONDS, self.too_slow)

    def too_slow(self) -> None:
        """Close: whoever is at the other end sends too slowly."""
        if not self.transport.is_closing():
            self.transport.abort()
