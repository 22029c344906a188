"""One voice: which of several processes says why the run ends. Whoever asks first has the word.

They meet in a store that all reach: torchrun's, that of `--nproc`, or else the first process's own.
"""

import os
import socket
import time
from contextlib import suppress
from datetime import timedelta

from torch.distributed import DistStoreError, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from fathom.errors import FathomError
from fathom.processes import STORE_OUTSIDE, Process, this_process

HEAD_START = 1.0  # seconds: an error that all processes meet is told by the first
LINGER = 5.0  # seconds in which a process that has nothing to say lets the first one finish
CONNECT = timedelta(seconds=5)
MEETING = timedelta(minutes=5)  # until all processes have started
POLL = 0.05  # seconds
WORD, CODE = "word", "code"  # keys: how many have asked, and the exit code of the first
joined_store: Store | None = None  # of this process, once it has met the others
waited_in_vain = [False]  # whether this process has found nobody where it was to meet the others


def prefix(attempt: int) -> str:
    """Of our keys on one machine: processes that are started again begin with none."""
    return f"fathom/{attempt}"


def met_as(process: Process, store: Store) -> str:
    """What the keys of the processes that have met now begin with.

    torchrun counts on each machine how often it has started its processes again, keeps one store for all of it, and one
    machine does not know the count of another. So on several machines the first process names the meeting, and tells
    the others as they come; one that has come before and was killed does not answer.
    """
    if process.local_size == process.size:
        return prefix(process.attempt)
    store, ends = PrefixStore("fathom/met", store), time.monotonic() + MEETING.total_seconds()
    own = f"{socket.gethostname()} {os.getpid()} {time.monotonic_ns()}"
    if not process.first:
        store.set(f"come/{process.rank}", own)
        try:
            store.wait([f"welcome/{own}"], MEETING)
        except RuntimeError:
            raise FathomError(
                f"rank {process.rank} waits in vain for rank 0, which has not begun or has ended"
            ) from None
        name = store.get(f"welcome/{own}").decode()
        store.set(f"{name}/{process.rank}", own)
        return name
    missing = set(range(1, process.size))
    while missing and time.monotonic() < ends:
        for rank in [rank for rank in missing if store.check([f"come/{rank}"])]:
            store.set(f"welcome/{store.get(f'come/{rank}').decode()}", f"fathom/{own}")
        missing = {rank for rank in missing if not store.check([f"fathom/{own}/{rank}"])}
        time.sleep(POLL)
    if missing:
        raise FathomError(f"rank 0 waits in vain for rank {min(missing)}, which has not begun or has ended")
    return f"fathom/{own}"


def serve_store(host: str, door: socket.socket) -> Store:
    """A store behind a listening socket, which it takes over, for processes that the caller has started."""
    port = door.getsockname()[1]
    store = TCPStore(host, port, is_master=True, wait_for_workers=False, master_listen_fd=door.detach())
    return PrefixStore(prefix(0), store)


def meet(store: Store) -> None:
    """Keep the store that this process shares with the others."""
    global joined_store
    joined_store = store


def store_outside(process: Process) -> Store | None:
    """The store of the process that started this one, before the processes have met; None: there is none."""
    if os.environ.get(STORE_OUTSIDE) != "True":
        return None
    with suppress(RuntimeError):
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return PrefixStore(prefix(process.attempt), TCPStore(address, port, timeout=CONNECT))
    return None


def has_the_word(store: Store, process: Process | None, code: int) -> bool:
    """Whether the caller says why the run ends, with this exit code: who asks first. process: None is a launcher."""
    try:
        if process is not None and not process.first:
            with suppress(DistStoreError):
                store.wait([WORD], timedelta(seconds=HEAD_START))
        if store.add(WORD, 1) > 1:
            return False
        store.set(CODE, str(code))
    except RuntimeError:  # the store has ended with the process that holds it
        return process is None or process.rank <= 1
    return True


def last_words(line: str, code: int) -> str | None:
    """The line with which a run ends as this process says it; None where another one has said why."""
    process = this_process()
    store = joined_store or store_outside(process)
    if store is None:  # each machine says for itself that it has met nobody; what else is wrong all find alike
        speaks = process.local_rank == 0 or "LOCAL_RANK" not in os.environ
        return line if process.first or (waited_in_vain[0] and speaks) else None
    meet(store)
    if not has_the_word(store, process, code):
        return None
    return line if process.first else f"rank {process.rank} ({socket.gethostname()}): {line}"


def linger(code: int) -> None:
    """Before this process ends: one that failed lets the first one finish, as its own end brings that about."""
    process = this_process()
    if joined_store is None:
        return
    with suppress(RuntimeError):
        joined_store.set(f"ended/{process.rank}", str(code))
        others = ["ended/0"] if process.rank else [f"ended/{rank}" for rank in range(1, process.size)]
        if code and (process.rank or os.environ.get(STORE_OUTSIDE) != "True"):
            joined_store.wait(others, timedelta(seconds=LINGER))
