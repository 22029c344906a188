"""Compile the C++ files of this room, each at its first use, and load them.

One shared library for each file and instruction set, kept in the user's cache under a name that stands for all that
went into it and for what came out. Nothing here is needed: without a compiler `library` gives None, and its callers
compute with torch. `FATHOM_NATIVE` forces an instruction set, or `off`. Does not know what the files compute.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fathom.errors import FathomError, near

SOURCES = Path(__file__).parent
X86 = ["-mavx2", "-mfma", "-mf16c"]
FLAGS = {  # best first; the code asks the compiler's own macros which of them it may use
    "avx512": [
        *X86,
        "-mavx512f",
        "-mavx512bw",
        "-mavx512vl",
        "-mavx512dq",
        "-mavx512vnni",
        "-mprefer-vector-width=512",
    ],
    "avx2": X86,
    "neon": ["-march=armv8.2-a+dotprod"],
    "plain": [],
}
NEEDS = {  # as the system names them
    "avx512": {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"},
    "avx2": {"avx2", "fma", "f16c"},
    "neon": {"asimddp"},
    "plain": set[str](),
}
COMMON = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-Werror=switch", "-shared", "-fPIC"]
PATIENCE = 300  # seconds for a file, which takes some ten
THREADS = [["-fopenmp"], []]  # not every compiler comes with OpenMP; without it there is one thread
SYSCTL = {  # names of Darwin
    "hw.optional.avx2_0": "avx2",
    "hw.optional.fma": "fma",
    "hw.optional.f16c": "f16c",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
}
failure: dict[str, str] = {}  # instruction set -> why it could not be compiled, in one line
single: set[str] = set()  # instruction sets that run without OpenMP


def library(name: str) -> ctypes.CDLL | None:
    """The functions of `name`.cpp for this machine; None where they are switched off or cannot be had."""
    kind = instruction_set()
    return None if kind is None else load(name, kind)


def instruction_set() -> str | None:
    """The best that this machine has, or what FATHOM_NATIVE names; None: off, or no compiler."""
    forced = os.environ.get("FATHOM_NATIVE") or "auto"
    if forced == "off" or os.name != "posix":
        return None
    available = [kind for kind in FLAGS if NEEDS[kind] <= features()]
    if forced == "auto":
        return available[0] if compiler() else None
    if forced not in available:
        raise FathomError(f"FATHOM_NATIVE is {forced!r}{near(forced, FLAGS) or ';'} expected"
                          f" one of auto, off, {', '.join(available)} on this machine")  # fmt: skip
    return forced


def status() -> str:
    """What is in use, in one line."""
    if os.environ.get("FATHOM_NATIVE") == "off" or os.name != "posix":
        return "native kernels off: torch computes"
    if not compiler():
        return "no native kernels: found no C++ compiler (install g++ or clang++, or set CXX): torch computes"
    kind = instruction_set() or ""
    if library("panels") is None:
        return f"no native kernels: {failure.get(kind, '')}"
    return f"native kernels ({kind}{', one thread: the compiler has no OpenMP' if kind in single else ''})"


def waits(*names: str) -> bool:
    """Whether the first use of one of these files will compile it: time that a user wants explained."""
    try:
        kind = instruction_set()
        return kind is not None and not all(any(kept(name, way) for way in ways(kind)) for name in names)
    except (OSError, subprocess.SubprocessError):
        return False  # there is nothing to compile with, or no place for it


@functools.cache
def load(name: str, kind: str) -> ctypes.CDLL | None:
    """The library of one file for one instruction set, from the cache or compiled now."""
    try:
        # imports torch, whose OpenMP is then loaded first: both share the threads of one pool
        from fathom.native.interface import declare

        return declare(first_of(name, kind), name)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        text = said.decode(errors="replace") if isinstance(said, bytes) else said
        lines = [line for line in text.splitlines() if line.strip()]
        failure[kind] = next((line for line in lines if "error" in line), (lines or [type(error).__name__])[0])
        return None


def first_of(name: str, kind: str) -> ctypes.CDLL:
    """What is kept already, else what can be compiled with OpenMP, else without. Raises what the first of them did."""
    errors: list[OSError | subprocess.SubprocessError] = []
    for way in sorted(ways(kind), key=lambda way: kept(name, way) is None):
        try:
            lib = ctypes.CDLL(str(kept(name, way) or compiled(name, way)))
        except subprocess.TimeoutExpired:
            raise  # the other one would hang as long
        except (OSError, subprocess.SubprocessError) as error:
            errors.append(error)
        else:
            single.update(() if "-fopenmp" in way else (kind,))
            return lib
    raise errors[0]


def ways(kind: str) -> list[list[str]]:
    """The commands that compile for an instruction set, best first; files are still to be named."""
    flags = FLAGS[kind] + (["-mavx512bf16"] if kind == "avx512" and "avx512_bf16" in features() else [])
    return [[*(compiler() or ["c++"]), *COMMON, *flags, *threads] for threads in THREADS]


def kept(name: str, way: list[str]) -> Path | None:
    """Where the library lies that was compiled like this; None: nowhere. A damaged one, which could end the process
    that loads it, is none: what its name says it holds is compared with what it does hold."""
    files = sorted(cache().glob(f"{name}-{mark(way)}-*.so"))
    return next((path for path in files if path.stem.rpartition("-")[2] == digest(path.read_bytes())), None)


def compiled(name: str, way: list[str]) -> Path:
    """Where the library lies after compiling it now, or after another process has."""
    with locked(cache()), tempfile.TemporaryDirectory(dir=cache()) as place:
        if done := kept(name, way):
            return done
        made = Path(place, "made.so")
        command = [*way, str(SOURCES / f"{name}.cpp"), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
        target = cache() / f"{name}-{mark(way)}-{digest(made.read_bytes())}.so"
        return made.replace(target)  # whole or not at all, whoever else compiles it too


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While another process holds the folder, wait: of many that want a library one compiles it."""
    import fcntl  # only POSIX systems have it, as they alone have native code

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: each compiles for itself
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def mark(way: list[str]) -> str:
    """Stands for all that goes into a library: the sources, the compiler and what it is told."""
    text = b"".join(path.read_bytes() for path in sorted(SOURCES.glob("*.[ch]*")) if path.suffix in (".cpp", ".h"))
    return digest(text + shlex.join(way).encode() + version())


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


@functools.cache
def compiler() -> list[str] | None:
    """The C++ compiler: what CXX says, else what is on the path."""
    if (said := os.environ.get("CXX", "")).strip():
        try:
            return shlex.split(said)
        except ValueError:  # an open quotation mark
            return [said]
    found = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    return [found] if found else None


@functools.cache
def version() -> bytes:
    done = subprocess.run([*(compiler() or ["c++"]), "--version"], capture_output=True, timeout=60)
    return done.stdout


def cache() -> Path:
    """A folder of the user's own, which nobody else can write to: what lies there is run."""
    for folder in folders():
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            about = folder.lstat()  # of a link: where it leads is whoever's who made it
            own = stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o022
            if own and os.access(folder, os.W_OK):
                return folder
    raise OSError("found no folder of your own to keep compiled code in; set XDG_CACHE_HOME to one that is writable")


def folders() -> Iterator[Path]:
    """Where compiled code may lie: in the user's cache, else with the system's temporary files."""
    said = Path(os.environ.get("XDG_CACHE_HOME", ""))  # means nothing unless it is absolute (XDG Base Directory, 0.8)
    with suppress(RuntimeError, OSError):  # there may be no home
        yield ((said if said.is_absolute() else Path.home() / ".cache") / "fathom" / "native").resolve()
    yield Path(tempfile.gettempdir(), f"fathom-native-{os.getuid()}")


@functools.cache
def features() -> frozenset[str]:
    """What this processor can do, as Linux names it."""
    if platform.system() == "Darwin":
        said = subprocess.run(["sysctl", "hw.optional"], capture_output=True, text=True).stdout
        return of_darwin(said)
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    lines = (line.split(":", 1)[1] for line in text.splitlines() if line.startswith(("flags", "Features")))
    return frozenset(next(lines, "").split())


def of_darwin(said: str) -> frozenset[str]:
    """What `sysctl hw.optional` says; a program made for Intel is told there what its translator can do."""
    pairs = (line.split(":", 1) for line in said.splitlines() if ":" in line)
    return frozenset(SYSCTL[name] for name, value in pairs if name in SYSCTL and value.strip() == "1")
