"""How the processes of a run notice that one of them is lost, and what they tell each other beside sums of numbers.

Each sets its beat in a store that all reach, twice a second, from a thread. A process whose beat stands still was
killed, is stopped or has no network: the others end, whatever they were waiting for. So they do where one beats and
does nothing: its main thread sleeps outside of torch, for no disk and no other program, while they wait for it.
"""

import json
import os
import re
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed import DistError, DistStoreError, PrefixStore, Store  # type: ignore[attr-defined]

from fathom.errors import FathomError
from fathom.processes import Process
from fathom.training.voice import CODE, LINGER, WORD, has_the_word, meet, met_as
from fathom.words import counted

PERIOD = 0.5  # seconds between two beats
SILENT = 20.0  # seconds without a beat after which a process is lost
GONE = 3.0  # the same where a connection has broken besides
STUCK = 60.0  # seconds in which one does nothing while another waits for it
WAITING = ("torch/distributed/", "torch/autograd/", "fathom/training/watch.py")  # files in which one waits for others
LEAVE = 10.0  # seconds in which all leave when it has been said why
LEFT = b"left"
PERHAPS = "killed, stopped, out of memory or without network"
SAID = "another process has said why the run ends"
BROKEN = re.compile(r"gloo|nccl|connection (was )?(closed|reset|refused)|broken pipe|socket|timed? ?out", re.IGNORECASE)


class Lost(FathomError):
    """Another process of the run has ended, or does not answer."""

    exit_code = 1


class Watch:
    """What this process knows of the others, and tells them."""

    def __init__(self, process: Process, store: Store) -> None:
        """store: one in which all meet. Each thread has its own connection, so that none waits for another."""
        self.process, self.told, name = process, 0, met_as(process, store)
        self.origin = store  # which serves the others where this process is the first, also after the run
        self.store, self.beats = (PrefixStore(name, store.clone()) for _ in range(2))  # type: ignore[attr-defined]
        self.others = [rank for rank in range(process.size) if rank != process.rank]
        self.stopped, self.broken, self.settled = (threading.Event() for _ in range(3))
        self.line = ""  # what was found where a connection has broken
        self.parent, self.main = os.getppid(), (threading.get_ident(), threading.get_native_id())
        self.waits, self.still = 0.0, dict[int, tuple[str, float]]()  # since when: this one waits; another does nothing
        self.thread: threading.Thread | None = None
        self.store.set(f"about/{process.rank}", f"{socket.gethostname()}, process {os.getpid()}")
        self.beat()

    def beat(self) -> None:
        """Set this process's beat, which is never the same twice, how many sums it has asked for, and what it does."""
        self.place = place(self.main[0])
        work = f"{life(self.main[1])} {self.place}"
        self.beats.set(f"beat/{self.process.rank}", f"{time.monotonic()} {sums[0]} {work}")

    def start(self) -> None:
        """Begin to watch; every process has set its first beat."""
        self.thread = threading.Thread(target=self.run, name="watch", daemon=True)
        self.thread.start()

    def leave(self) -> None:
        """Stop watching and being watched."""
        self.stopped.set()
        if self.thread is not None:
            self.thread.join(LINGER)
        with suppress(RuntimeError):
            self.beats.set(f"beat/{self.process.rank}", LEFT.decode())

    def run(self) -> None:
        """Beat and listen until the end; ends the process where another one is lost and it cannot do so itself."""
        seen: dict[int, tuple[bytes, float]] = {}
        before, said = time.monotonic(), None
        while not self.stopped.wait(PERIOD):
            now = time.monotonic()
            if now - before > 10 * PERIOD:  # this process itself did not run: nobody is silent because of that
                seen, self.still = {}, {}
            before = now
            try:
                self.beat()
                values = self.beats.multi_get([f"beat/{rank}" for rank in self.others])
                if said is None and self.beats.check([WORD]):
                    said = now
            except RuntimeError:
                self.end("" if self.stopped.is_set() else "the process that started this run, or rank 0, has ended")
                return
            for rank, value in zip(self.others, values):
                if rank not in seen or seen[rank][0] != value:
                    seen[rank] = value, now
            patience = GONE if self.broken.is_set() else SILENT
            silent = [rank for rank, (value, at) in seen.items() if value != LEFT and now - at > patience]
            if silent:
                self.end(f"{self.named(silent)} no longer {'answers' if len(silent) == 1 else 'answer'}: {PERHAPS}")
            for rank, where in self.stuck(values, now):
                idle = counted(STUCK, "second")
                self.end(f"{self.named([rank])} has done nothing for {idle}, at {where}; all wait for it")
            if said is not None and (self.broken.is_set() or now - said > LEAVE):
                self.end(SAID)
            if os.getppid() != self.parent:
                self.end("the process that started this run has ended")

    def stuck(self, beats: Sequence[bytes], now: float) -> list[tuple[int, str]]:
        """Ranks that do nothing while this one waits, and where: a file and its line."""
        self.waits = now if self.place or not self.waits else self.waits
        found = []
        for rank, beat in zip(self.others, beats):
            work = beat.decode().partition(" ")[2]  # of one that has left: nothing
            where = work.split(" ", 2)[-1]
            if not where or rank not in self.still or self.still[rank][0] != work:
                self.still[rank] = work, now
            elif now - max(self.waits, self.still[rank][1]) > STUCK:
                found.append((rank, where))
        return found

    def end(self, line: str) -> None:
        """Hand the line to the main thread where that asks for it; else say it and end the process as it is."""
        if self.stopped.is_set() or self.settled.is_set():
            return
        self.line = line
        self.settled.set()
        if not self.broken.is_set():
            if line and self.speaks(Lost.exit_code):
                warnings.warn(line, RuntimeWarning, stacklevel=1)
            os._exit(Lost.exit_code)

    def named(self, ranks: list[int]) -> str:
        """Ranks and where they run: "rank 3 (host, process 4711)"."""
        with suppress(RuntimeError):
            about = self.beats.multi_get([f"about/{rank}" for rank in ranks])
            return " and ".join(f"rank {rank} ({text.decode()})" for rank, text in zip(ranks, about))
        return " and ".join(f"rank {rank}" for rank in ranks)

    def lost(self, problem: BaseException) -> Lost:
        """Who is missing after a connection has broken."""
        self.broken.set()
        if not self.settled.wait(GONE + 5 * PERIOD):
            behind = self.behind()
            return Lost(f"{self.named(behind)} did not come: {PERHAPS}" if behind else f"{first_line(problem)}")
        return self.after_word() if self.line == SAID else Lost(self.line)

    def after_word(self) -> Lost:
        """How this process ends where another one has said why: with the same exit code."""
        lost = Lost(SAID)
        with suppress(RuntimeError, ValueError):
            self.store.wait([CODE], timedelta(seconds=PERIOD))
            lost.exit_code = int(self.store.get(CODE))
        return lost

    def behind(self) -> list[int]:
        """Ranks that have asked for fewer sums than this one."""
        beats = self.beats.multi_get([f"beat/{rank}" for rank in self.others])
        counts = {rank: int(beat.split()[1]) for rank, beat in zip(self.others, beats) if beat != LEFT}
        return [rank for rank, count in counts.items() if count < sums[0]]

    def share(self, value: Any = None) -> Any:
        """The value of the first process, as JSON carries it, in all of them. They wait as long as it lives."""
        self.told += 1
        key = f"told/{self.told}"
        if self.process.first:
            self.store.set(key, json.dumps(value))
            return value
        return json.loads(self.wait(key))

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, as JSON carries them, in each."""
        self.told += 1
        self.store.set(f"told/{self.told}/{self.process.rank}", json.dumps(value))
        return [json.loads(self.wait(f"told/{self.told}/{rank}")) for rank in range(self.process.size)]

    def wait(self, key: str) -> bytes:
        """A key's value as soon as it is there. Lost where the run ends before."""
        while True:
            with suppress(DistStoreError):
                self.store.wait([key], timedelta(seconds=PERIOD))
                return self.store.get(key)
            if self.store.check([WORD]):
                raise self.after_word()

    def speaks(self, code: int) -> bool:
        """Whether this process says why the run ends."""
        return has_the_word(self.store, self.process, code)


current: Watch | None = None  # of this process
sums = [0]  # how many this process has asked for


def place(thread: int) -> str:
    """The file and line that a thread is at; nothing where it waits for another process, or its gradients."""
    frame = sys._current_frames().get(thread)
    if frame is None or any(part in frame.f_code.co_filename.replace(os.sep, "/") for part in WAITING):
        return ""
    return f"{Path(frame.f_code.co_filename).name}, line {frame.f_lineno}"


def life(thread: int) -> str:
    """A text that stays the same while a thread sleeps: not while it computes, waits for a disk or another program, nor
    where the system does not tell. thread: as the system numbers it."""
    task = Path(f"/proc/self/task/{thread}")
    with suppress(OSError):
        state, *figures = (task / "stat").read_text().rpartition(")")[2].split()
        if state == "S" and not (task / "children").read_text():
            return f"{int(figures[10]) + int(figures[11])}"  # ticks in the program and in the system
    return f"{time.monotonic()}"


def watched() -> Watch:
    """The watch of this process; without a thread where somebody else has made the process group."""
    global current
    if current is None:
        process = Process(dist.get_rank(), dist.get_world_size())
        current = Watch(process, dist.distributed_c10d._get_default_store())
    return current


def first_line(problem: BaseException) -> str:
    return str(problem).split("\n")[0]


def is_broken(problem: BaseException) -> bool:
    """Whether an error comes from the connection to another process."""
    return isinstance(problem, DistError) or (
        isinstance(problem, RuntimeError) and BROKEN.search(str(problem)) is not None
    )


@contextmanager
def watching(process: Process, store: Store) -> Iterator[Watch]:
    """The watch of this process; after the block it is kept for its store."""
    global current
    current = watch = Watch(process, store)
    meet(watch.store)
    try:
        yield watch
    finally:
        watch.leave()
