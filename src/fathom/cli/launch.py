"""`--nproc N`: the same command in N processes of this machine, as torchrun would start them.

The launcher holds the store in which they meet, passes signals on, and ends only when all of them have ended. Why they
end is said once: by the process that knows it, or here where one was killed.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

import click

from fathom.cli.streams import say
from fathom.errors import FathomError
from fathom.processes import LAUNCHER, STORE_OUTSIDE, this_process

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

HOST = "127.0.0.1"
PER_CORE = 4  # processes; more are a mistake
POLL = 0.05  # seconds
GRACE, KILL = 10.0, 10.0  # seconds in which the others end by themselves after an error; from SIGTERM to SIGKILL
IMPATIENT = 2.0  # seconds from the second Ctrl-C to SIGKILL
LOST, STOPPED = 1, (128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit codes
SHOW_CURSOR = "\x1b[?25h"  # a process that is killed while it draws leaves it hidden
MEMORY = " (the system does that where memory runs out)"


def starts_processes(n: int | None) -> bool:
    """Whether `--nproc n` asks for processes that this one has to start. FathomError where it cannot."""
    if n is None:
        return False
    process, cores = this_process(), usable_cores()
    if process.several:
        raise FathomError(f"--nproc {n} was given, and torchrun has started {process.size} processes; leave it out")
    if n > PER_CORE * cores:
        raise FathomError(
            f"--nproc is {n}; expected at most {PER_CORE * cores} on this machine's {cores} cores; the fastest is one"
            f" process a core or GPU, such as --nproc {cores}"
        )
    if n > cores:
        say(f"warning: {n} processes share {cores} cores, which is slower than --nproc {cores}", err=True)
    return n > 1


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def as_started() -> str:
    """The option with which this process and its neighbours were started, to continue a run as it was."""
    return f" --nproc {this_process().size}" if LAUNCHER in os.environ else ""


def without_nproc(words: Sequence[str]) -> list[str]:
    """The words of a command line without `--nproc N`."""
    return [
        word
        for before, word in zip(("", *words), words)
        if "--nproc" not in (before, word) and not word.startswith("--nproc=")
    ]


def launch(words: Sequence[str], n: int, resume: str) -> int:
    """Run `fathom WORDS` in n processes and return the exit code of the run. resume: the options that continue it."""
    with socket.socket() as door:
        door.bind((HOST, 0))
        door.listen(4 * n)
        processes = Processes(f"fathom {words[0]} --nproc {n} {resume}")
        with processes.kept_in_hand():
            processes.start(without_nproc(words), n, door.getsockname()[1])
            from fathom.training.voice import serve_store  # loads torch while the processes do the same

            return processes.wait(serve_store(HOST, door))


class Processes:
    """The processes that were started, and why they ended."""

    def __init__(self, resume: str) -> None:
        self.started: list[subprocess.Popen[bytes]] = []
        self.resume = resume
        self.interrupted: list[float] = []  # when Ctrl-C was pressed
        self.ended: tuple[int, int, float] | None = None  # rank, exit code and time of the first that did not end well
        self.sent: set[int] = set()

    def start(self, words: Sequence[str], n: int, port: int) -> None:
        """Each in a group of its own: what the terminal sends reaches them through the launcher, once."""
        common = {"MASTER_ADDR": HOST, "MASTER_PORT": str(port), "WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n)}
        common |= {STORE_OUTSIDE: "True", LAUNCHER: str(os.getpid())}
        common |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, usable_cores() // n)))}
        command, group = [sys.executable, "-m", "fathom", *words], None if os.name == "nt" else 0
        for rank in range(n):
            own = os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            self.started.append(subprocess.Popen(command, env=own, stdin=subprocess.DEVNULL, process_group=group))

    @contextmanager
    def kept_in_hand(self) -> Iterator[None]:
        """Signals are passed on; after the block no process is left."""
        numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGTSTP") if hasattr(signal, name)]
        before = {number: signal.signal(number, self.pass_on) for number in numbers}
        try:
            yield
        finally:
            self.send(signal.SIGKILL)
            for process in self.started:
                process.wait()
            for number, handler in before.items():
                signal.signal(number, handler)

    def pass_on(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-C and SIGTERM reach each process once; Ctrl-Z stops all of them and this one, and `fg` continues all."""
        if number in (signal.SIGINT, signal.SIGTERM):
            self.interrupted.append(time.monotonic())
            self.send(number)
            return
        self.send(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        self.send(signal.SIGCONT)

    def send(self, number: int) -> None:
        for process in self.started:
            with suppress(ProcessLookupError):
                process.send_signal(number)

    def send_once(self, number: int) -> None:
        if number not in self.sent:
            self.sent.add(number)
            self.send(number)

    def wait(self, store: "Store") -> int:
        """Until all have ended. Where one has ended badly the others follow, by themselves or not."""
        while self.running():
            self.look(store)
            if self.ended is not None:
                since = time.monotonic() - self.ended[2] - (GRACE if self.ended[1] > 0 else 0)
                if since >= 0:
                    self.send_once(signal.SIGTERM)
                if since >= KILL:
                    self.send_once(signal.SIGKILL)
            if len(self.interrupted) > 1 and time.monotonic() - self.interrupted[1] > IMPATIENT:
                self.send_once(signal.SIGKILL)
            time.sleep(POLL)
        self.look(store)
        return self.exit_code(store)

    def running(self) -> bool:
        """Whether any is left; sets the exit codes of those that are not."""
        return None in [process.poll() for process in self.started]

    def look(self, store: "Store") -> None:
        """Note the first that has ended badly; why it was killed nobody else can say."""
        for rank, process in enumerate(self.started):
            if self.ended is None and process.returncode:
                self.ended = rank, process.returncode, time.monotonic()
                if process.returncode < 0 and not self.interrupted:
                    self.say(store, f"rank {rank} was killed by {name(-process.returncode)}{MEMORY}")

    def exit_code(self, store: "Store") -> int:
        """The exit code of the run, and a line where nobody has said why it ended."""
        if self.ended is None:
            return 0
        rank, code, _ = self.ended
        if self.interrupted and code < 0:
            code = STOPPED[0]
            self.say(store, "stopped", code)
        if code not in STOPPED:
            self.say(store, f"rank {rank} ended with exit code {code}")
        return int(store.get("code")) if store.check(["code"]) else code

    def say(self, store: "Store", line: str, code: int = LOST) -> None:
        """Say why the run ends, unless it has been said."""
        from fathom.training.voice import has_the_word

        if has_the_word(store, None, code):
            if sys.stderr.isatty():
                click.echo(SHOW_CURSOR, err=True, nl=False)
            more = "" if code in STOPPED else f"; the others have ended; continue: {self.resume}"
            say(f"fathom: {line}{more}", err=True)


def name(number: int) -> str:
    """SIGKILL for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
