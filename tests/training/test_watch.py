"""A process that hangs, has other options, no memory or no port is named, in one line, and the others end."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from fathom.processes import Process
from fathom.training import watch
from fathom.training.watch import Watch
from tests.training.runs import TEXT

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and limits of POSIX")
HANGS = """
import os, signal, torch
from fathom.training import watch
from fathom.training.world import joined
watch.SILENT = 2
with joined("cpu") as world:
    world.barrier()
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    world.total(torch.ones(1))
"""
STANDS_STILL = """
import subprocess, time, torch
from fathom.training import watch
from fathom.training.world import joined
watch.STUCK = 2
with joined("cpu") as world:
    if world.rank == 1:
        {work}
    world.total(torch.ones(1))
"""
WORK = {  # more than two seconds long
    "computes": "ends = time.monotonic() + 4\n        while time.monotonic() < ends: pass",
    "waits for a program": "subprocess.run(['sleep', '4'])",
}
TRAINS = """
import os, resource, sys
from fathom.cli import main
from fathom.training import train
rank, fit = int(os.environ["RANK"]), train.fit
def narrowed(*given):
    if rank == 1 and "{memory}":
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), -1))
    fit(*given)
train.fit = narrowed
call = "fathom train --data text.txt -o run --max-iters 4 --device cpu"
sys.argv = [*call.split(), *{options}[rank]]
main.run()
"""


def run(code: str, folder: Path) -> tuple[list[int], str]:
    """The exit codes of two processes that run this, and what both say; one that is stopped is killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"TORCH_CPP_LOG_LEVEL": "FATAL"}  # as the command line sets it before it loads torch
    said = (folder / "said.txt").open("w+")
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=folder, env=common | {"RANK": rank}, stdout=said, stderr=said
        )
        for rank in ("0", "1")
    ]
    try:
        codes = [started[0].wait(60)]
        codes += [] if "SIGSTOP" in code else [started[1].wait(60)]
    finally:
        for process in started:
            process.kill()
            process.wait()
    said.seek(0)
    return codes, said.read()


def trained(folder: Path, options: list[list[str]], memory: str = "") -> tuple[list[int], list[str]]:
    """The exit codes of a run in two processes with these options each, and the lines that say why it ended."""
    (folder / "text.txt").write_text(TEXT)
    codes, said = run(TRAINS.format(options=options, memory=memory), folder)
    return codes, [line for line in said.splitlines() if "fathom: " in line or "Error" in line]


def test_a_process_that_hangs_is_named(tmp_path: Path) -> None:
    codes, said = run(HANGS, tmp_path)
    assert codes == [1] and "rank 1 (" in said and "no longer answers" in said and "Traceback" not in said


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux says what a thread does")
def test_a_process_that_does_nothing_is_named_with_its_place(tmp_path: Path) -> None:
    codes, said = run(STANDS_STILL.format(work="time.sleep(50)"), tmp_path)
    assert codes == [1, 1] and "Traceback" not in said
    assert "rank 1 (" in said and "has done nothing for 2 seconds, at <string>, line 8; all wait for it" in said


@pytest.mark.parametrize("work", WORK)
def test_a_process_that_works_is_waited_for(work: str, tmp_path: Path) -> None:
    codes, said = run(STANDS_STILL.format(work=WORK[work]), tmp_path)
    assert codes == [0, 0] and not said.strip()


def test_a_process_that_has_left_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the others go on; one whose beat stands still is."""
    said: list[str] = []
    monkeypatch.setattr(watch, "SILENT", 0.2)
    monkeypatch.setattr(watch, "PERIOD", 0.05)
    monkeypatch.setattr(Watch, "end", lambda self, line: said.append(line))
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    first, second = (Watch(Process(rank, 2, rank, 2), store) for rank in (0, 1))
    second.leave()
    first.start()
    time.sleep(0.6)
    assert not said
    second.beat()
    ends = time.monotonic() + 20
    while not said and time.monotonic() < ends:
        time.sleep(0.05)
    first.leave()
    assert said and said[0].startswith("rank 1 (") and "no longer answers" in said[0]


def test_other_options_are_named_before_anything_is_written(tmp_path: Path) -> None:
    codes, lines = trained(tmp_path, [["--lr", "0.01"], ["--lr", "0.02"]])
    assert codes == [2, 2] and len(lines) == 1 and not (tmp_path / "run").exists()
    assert "was started with learning_rate=0.02 and rank 0 with learning_rate=0.01" in lines[0]
    assert lines[0].startswith("fathom: rank 1 (")


@pytest.mark.slow
def test_a_batch_that_cannot_be_divided_is_refused_once(tmp_path: Path) -> None:
    codes, lines = trained(tmp_path, [["--batch-size", "5"]] * 2)
    assert codes == [2, 2] and len(lines) == 1 and not (tmp_path / "run").exists()
    assert "batch_size=5 over 2 processes; expected a multiple of their number" in lines[0]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a limit that counts memory as it is asked for")
def test_a_process_without_memory_is_named(tmp_path: Path) -> None:
    big = ["--batch-size", "512", "--context-length", "256", "--train.eval-windows", "1", "--overwrite"]
    codes, lines = trained(tmp_path, [big] * 2, memory="little")
    assert codes[1] == 2 and codes[0] in (1, 2) and len(lines) == 1
    assert lines[0].startswith("fathom: rank 1 (") and "not enough memory" in lines[0]


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code = "from fathom.training.world import joined\nwith joined('cpu'): pass"
        environment = os.environ | {
            "RANK": "0",
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert f"port {port} of 127.0.0.1 is in use; give another" in done.stderr
