"""Ctrl-C and SIGTERM as a wish that the loop reads between two steps, so that a run ends with a good checkpoint.

A second Ctrl-C interrupts at once; checkpoints are atomic, so even that loses only the steps since the last one. Does
not know what the loop does about it.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """`requested` is the first signal that asked for the end, or None; the exit code for it is 128 + requested."""

    requested: signal.Signals | None = None

    def asked(self) -> bool:
        """Whether the run is to end."""
        return self.requested is not None

    def ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = self.requested or signal.Signals(number)


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Within it SIGINT and SIGTERM set `stop.requested`; afterwards they mean what they meant before.

    Signals that are ignored stay ignored (nohup), and outside the main thread, where Python allows no handlers, nothing
    is ever requested.
    """
    stop = Stop()
    main = threading.current_thread() is threading.main_thread()
    wanted = (signal.SIGINT, signal.SIGTERM) if main else ()
    before = {number: signal.getsignal(number) for number in wanted}
    taken = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    try:
        for number in taken:
            signal.signal(number, stop.ask)
        yield stop
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)
