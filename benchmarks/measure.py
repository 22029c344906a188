"""What the benchmarks share: a measurement in its own process, the median time of a call, and the machine it ran on."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
PEER_PYTHON = PEERS / ".venv" / "bin" / "python"  # where README.md sets the peers up


class Failed(Exception):
    """A process failed, or something it requires is missing; the message is one line."""


def output(words: Sequence[str], threads: int) -> str:
    """What a process prints. Raises Failed."""
    pinned = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    try:
        process = subprocess.run(words, env={**os.environ, **pinned}, capture_output=True, text=True)
    except OSError as error:
        raise Failed(f"{words[0]} cannot be started: {error.strerror}") from None
    if process.returncode:
        last = (process.stderr.strip().splitlines() or ["nothing printed"])[-1]
        raise Failed(f"exit code {process.returncode}: {last}")
    return process.stdout


def figures(words: Sequence[str], threads: int, line: int = -1) -> dict[str, Any]:
    """One of the JSON lines that a process prints, the last by default. Raises Failed."""
    printed = output(words, threads).splitlines()
    try:
        value: dict[str, Any] = json.loads(printed[line])
    except (IndexError, ValueError):
        raise Failed(f"expected a line of JSON, found {printed[-1:]}") from None
    return value


def median_seconds(call: Callable[[], object], repeat: int) -> float:
    """The median of `repeat` calls, after one to warm up."""
    times = []
    for _ in range(repeat + 1):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def instructions() -> str:
    """The instruction set that native code uses here; `none` without it."""
    from fathom.native.build import instruction_set

    return instruction_set() or "none"


def machine(threads: int) -> dict[str, Any]:
    """Processor, instruction set, threads and versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = models[0] if models else platform.processor() or platform.machine()
    return {
        "processor": processor,
        "instructions": instructions(),
        "threads": threads,
        "torch": version("torch"),
        "python": platform.python_version(),
    }
