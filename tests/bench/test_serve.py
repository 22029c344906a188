"""benchmarks/serve.py leaves no server behind, whatever ends it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.house.source import ROOT

pytest.importorskip("fastapi")


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def runs(pid: int) -> bool:
    """Whether a process is there and not merely waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_its_server_ends_with_it(how: signal.Signals) -> None:
    call = [sys.executable, str(ROOT / "benchmarks" / "serve.py"), "demo:copycat", "--peer", "none"]
    # a group of its own, so that a signal goes to the benchmark alone
    with subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as run:
        until = time.monotonic() + 60
        while not (started := children(run.pid)):
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(1)  # into the loading of the model
        os.kill(run.pid, how)
        assert run.wait(60) != 0
        until = time.monotonic() + 5
        while any(map(runs, started)):
            assert time.monotonic() < until, started
            time.sleep(0.05)
