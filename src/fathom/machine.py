"""This machine: device, threads, free memory, and what `auto` means on it."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fathom.errors import FathomError, near
from fathom.words import counted

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda", "mps")


def pick_device(name: str = "auto") -> torch.device:
    """`auto` takes CUDA, then Apple's MPS, then the CPU. FathomError for a device that is not available."""
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    kind = name.split(":")[0]
    if kind not in available:
        raise FathomError(f"device is {name!r}{near(name, DEVICES, then='choose')} one of {', '.join(DEVICES)}")
    if not available[kind]:
        raise FathomError(f"device {name!r} was requested, but torch finds no {kind} here; use auto or cpu")
    return torch.device(name)


def describe(device: torch.device) -> str:
    """The device in words, such as "cpu (2 threads, x86_64)" or "cuda (NVIDIA H100)"."""
    import torch

    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    threads = torch.get_num_threads()
    return f"{device.type} ({counted(threads, 'thread')}, {platform.machine()})"


def free_memory(device: torch.device | None = None) -> int | None:
    """Bytes that can still be allocated on the device, or None where the system does not report it."""
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def resident_memory() -> int:
    """Bytes of this process in memory now; 0 where the system does not say."""
    return _status("VmRSS") or 0


def peak_memory(device: torch.device) -> int:
    """Most bytes so far: of this process, or on a GPU of torch's allocator; 0 where the system does not say."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    if (peak := _status("VmHWM")) is not None:  # what getrusage counts begins with the peak of the parent process
        return peak
    if os.name != "posix":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_memory() -> None:
    """Let the peak of this process begin anew, on Linux; no effect on other systems."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _status(field: str) -> int | None:
    """Bytes of a line of Linux's /proc/self/status."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
    except (OSError, StopIteration):
        return None


def keep_freed_memory() -> None:
    """Make glibc keep freed memory; no effect on other systems.

    By default it returns large blocks to the system after every operation and faults the same pages in again: thousands
    of page faults, a tenth of the time of a small training step on a CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, 1 << 30)


def release_freed_memory() -> None:
    """Make glibc return freed memory to the system; no effect on other systems. For use after large temporary work."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
