"""Which of several processes this is, as torchrun and `--nproc` tell each in its environment. Does not import torch.

RANK: its number over all machines, of WORLD_SIZE; LOCAL_RANK: among the LOCAL_WORLD_SIZE of this machine; MASTER_ADDR
and MASTER_PORT: where the processes find each other.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fathom.errors import FathomError

ALONE = "unset RANK and WORLD_SIZE to train with one process, or start several with --nproc N or torchrun"

LAUNCHER = "FATHOM_LAUNCHER"  # the process that `--nproc` was given to
STORE_OUTSIDE = "TORCHELASTIC_USE_AGENT_STORE"  # "True" where the process that starts the others holds their store


@dataclass(frozen=True)
class Process:
    """One of the processes that train a model together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    attempt: int = 0  # how often torchrun has started the processes again
    restarts: bool = False  # whether torchrun started it, which starts all again when one is lost

    @property
    def first(self) -> bool:
        """Whether it is the one that prints and writes."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        return self.size > 1


def this_process(environment: Mapping[str, str] = os.environ) -> Process:
    """This process; alone where the environment says nothing. FathomError where what it says cannot be."""
    if "RANK" not in environment and environment.get("WORLD_SIZE", "1") == "1":
        return Process()
    size = number(environment, "WORLD_SIZE", 1, None)
    rank = number(environment, "RANK", 0, size - 1)
    local_size = number(environment, "LOCAL_WORLD_SIZE", 1, size, size)
    local_rank = number(environment, "LOCAL_RANK", 0, local_size - 1, rank if rank < local_size else 0)
    if size > 1:
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            if not environment.get(name):
                raise FathomError(f"WORLD_SIZE is {size} and {name} is not set; torchrun sets it: {ALONE}")
        number(environment, "MASTER_PORT", 1, 65535)
    attempt = number(environment, "TORCHELASTIC_RESTART_COUNT", 0, None, 0)
    return Process(rank, size, local_rank, local_size, attempt, "TORCHELASTIC_RESTART_COUNT" in environment)


def one_of_several() -> bool:
    """Whether this is one of several processes, in an environment that can be."""
    with suppress(FathomError):
        return this_process().several
    return False


def number(environment: Mapping[str, str], name: str, least: int, most: int | None, default: int | None = None) -> int:
    """A whole number of the environment. FathomError where it is none, or out of bounds."""
    text = environment.get(name)
    if text is None and default is not None:
        return default
    bounds = f"from {least} to {most}" if most is not None else f"of at least {least}"
    if text is None:
        others = " and ".join(other for other in ("RANK", "WORLD_SIZE") if other in environment and other != name)
        raise FathomError(f"{others} is set and {name} is not; torchrun sets both: {ALONE}")
    if not text.isascii() or not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
        raise FathomError(f"the environment has {name}={text!r}; expected a whole number {bounds}: {ALONE}")
    return int(text)


def launch_name() -> str:
    """What recognises the launch that started this process: its parent on this machine, and when that began."""
    parent = os.getppid()
    try:
        began = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]  # clock ticks since boot
    except (OSError, IndexError):
        began = ""
    return f"{os.uname().nodename if hasattr(os, 'uname') else ''} {parent} {began}"


def end_with_launcher() -> None:
    """Have the kernel end this process when the one that started it ends, however that ends. Linux only.

    Also where this process is stopped, and without a moment in which it could go on alone.
    """
    started = LAUNCHER in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
    if not started or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ.get(LAUNCHER) or os.getppid()):  # it has ended before
        os._exit(1)


PR_SET_PDEATHSIG = 1  # of linux/prctl.h
