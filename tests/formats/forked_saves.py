"""Run as a program: saves checkpoints in forked children that wait for a tracer, so that each costs no start-up.

Per line `step folder` on stdin: prints the child's pid, waits for the line `go`, prints the child's wait status.
The child exits with 0 after a save, 3 after a FathomError.
"""

import ctypes
import os
import select
import signal
import sys
from functools import partial
from pathlib import Path

import torch

from fathom.errors import FathomError
from fathom.formats import checkpoint
from fathom.formats.safetensors_file import write_tensors
from tests.formats.saving import files, quick_directory

torch.set_num_threads(1)  # a forked child has none of its parent's threads and would wait for them forever
WEIGHTS = {f"w{i}": torch.full((700, 700), float(i)) for i in range(2)}  # safetensors needs several writes for them
PR_SET_PTRACER, PR_SET_PTRACER_ANY = 0x59616D61, ctypes.c_ulong(-1)
SAVED, REFUSED = 0, 3


def save(folder: Path, step: int) -> None:
    checkpoint.save(folder, step, {**files(step, "new"), "w.safetensors": partial(write_tensors, tensors=WEIGHTS)})


def child(folder: Path, step: int, gate: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0)  # a sibling may trace, also under Yama
    signal.alarm(60)
    select.select([gate], [], [])  # none of the calls that are counted
    try:
        save(folder, step)
    except FathomError as error:
        os._exit(REFUSED if "untouched" in str(error) else 4)
    os._exit(SAVED)


def main() -> None:
    with quick_directory() as place:
        save(place / "warm", 1)  # nothing is left to import
    for line in sys.stdin:
        step, folder = line.rstrip("\n").split(" ", 1)
        (gate, opener), (told, ready) = os.pipe(), os.pipe()
        pid = os.fork()
        if not pid:
            os.close(opener)
            os.write(ready, b"x")  # from here on every call is of what is traced
            child(Path(folder), int(step), gate)
        os.read(told, 1)
        for end in (gate, told, ready):
            os.close(end)
        print(pid, flush=True)
        sys.stdin.readline()
        os.write(opener, b"x")
        print(os.waitpid(pid, 0)[1], flush=True)
        os.close(opener)


if __name__ == "__main__":
    main()
