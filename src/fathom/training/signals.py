"""Turn signals into a stop flag: Ctrl-C and SIGTERM end a run between two steps, with a good checkpoint.

A second Ctrl-C interrupts at once; checkpoints are atomic, so even that loses only the steps since the last one.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """The stop flag. `requested` is the first signal, or None; the exit code for it is 128 + requested."""

    requested: signal.Signals | None = None

    def is_requested(self) -> bool:
        return self.requested is not None

    def request(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = self.requested or signal.Signals(number)


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Within it SIGINT and SIGTERM set `stop.requested`; afterwards the handlers from before are back.

    Signals that are ignored stay ignored (nohup). Outside the main thread, where Python allows no handlers, nothing is
    ever requested.
    """
    stop = Stop()
    main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
    before = {number: signal.getsignal(number) for number in numbers}
    replaced = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    try:
        for number in replaced:
            signal.signal(number, stop.request)
        yield stop
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)
