"""Damaged files by the thousand: whatever they say, reading one ends in a value or in one line.

Each mutant is read in a forked child that may neither take 2 s, nor more memory than 64 MiB and half as much again as
the file. A child that dies, by whatever signal, has read the mutant it announced last.
"""

import os
import random
import resource
import signal
import struct
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from fathom.errors import FathomError

SECONDS, ROOM = 2, 64 << 20
NUMBERS = [
    0,
    1,
    -1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    1 << 20,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    (1 << 63) - 1,
    1 << 62,
]


def mutate(data: bytes, seed: int) -> bytes:
    """The bytes with one to four faults: bits, numbers, cuts, repeats; more near the start, where headers are."""
    chance, damaged = random.Random(seed), bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        reach = len(damaged) if chance.random() < 0.4 else min(len(damaged), chance.choice((64, 512, 4096)))
        at, length = chance.randrange(max(reach, 1)), chance.choice((1, 2, 4, 8, 16, 64))
        match chance.randrange(7):
            case 0:
                damaged[at : at + 1] = bytes([(damaged[at : at + 1] or b"\0")[0] ^ (1 << chance.randrange(8))])
            case 1:
                size = chance.choice(("<I", "<Q", ">I", "<B"))
                mask = (1 << 8 * struct.calcsize(size)) - 1
                damaged[at : at + struct.calcsize(size)] = struct.pack(size, chance.choice(NUMBERS) & mask)
            case 2:
                del damaged[at:]
            case 3:
                del damaged[at : at + length]
            case 4:
                damaged[at:at] = chance.randbytes(length)
            case 5:
                damaged[at : at + length] = chance.randbytes(length)
            case 6:
                damaged[at:at] = damaged[at : at + length] * chance.choice((1, 2, 100))
    return bytes(damaged)


def survive(read: Callable[[Path], object], path: Path, count: int, seed: int = 0) -> None:
    """Put `count` mutants of the file `path` in its place, one after another, and `read` each (from the path given).

    AssertionError with the seed of each that did harm; the file is as it was afterwards.
    """
    original = path.read_bytes()
    try:
        harm = list(_run(read, path, original, range(seed, seed + count)))
    finally:
        path.write_bytes(original)
    assert not harm, f"{len(harm)} of {count} mutants of {path.name} did harm; the first: {harm[:3]}"


def _run(read: Callable[[Path], object], path: Path, original: bytes, seeds: range) -> Iterator[str]:
    """Children take the seeds in order; after one that died the next goes on with the seed that follows."""
    start = seeds.start
    while start < seeds.stop:
        receive, send = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(receive)
            _child(read, path, original, range(start, seeds.stop), send)
        os.close(send)
        with os.fdopen(receive, "r") as lines:
            said = lines.read().splitlines()
        _, status = os.waitpid(child, 0)
        announced = [int(line) for line in said if line.isdigit()]
        yield from (line for line in said if not line.isdigit())
        if status == 0:
            return
        last = announced[-1] if announced else start
        yield f"seed {last}: the process ended with {'signal ' + str(status & 127) if status & 127 else status >> 8}"
        start = last + 1


def _child(read: Callable[[Path], object], path: Path, original: bytes, seeds: range, send: int) -> None:
    """Never returns. A hang ends in SIGALRM, a flood of memory in MemoryError, a panic or SIGKILL."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    now = _status("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (now + (4 << 30), now + (4 << 30)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries in other languages say there that they panic
    for seed in seeds:
        os.write(send, f"{seed}\n".encode())
        if harm := _one(read, path, mutate(original, seed)):
            os.write(send, f"seed {seed}: {harm}\n".encode())
    os._exit(0)


def _one(read: Callable[[Path], object], path: Path, damaged: bytes) -> str:
    """What harm reading it did, or nothing."""
    path.unlink()  # what is mapped from the last one must not change under it
    path.write_bytes(damaged)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = _status("VmRSS")
    signal.alarm(SECONDS)
    try:
        read(path)
    except FathomError as error:
        if len(str(error)) > 2000:
            return f"a line of {len(str(error))} characters"
    except BaseException as error:  # whatever it is, it is what the reader would see
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:200]} at {Path(where.filename).name}:{where.lineno}"
    finally:
        signal.alarm(0)
    used = _status("VmHWM") - before
    return f"{used >> 20} MiB of memory" if used > ROOM + 1.5 * len(damaged) else ""


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
