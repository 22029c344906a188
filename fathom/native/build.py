"""Compile the C++ files of this room, each at its first use, and load them.

One shared library for each file and instruction set, kept in the user's cache under a name that stands for all that
went into it. Nothing here is needed: without a compiler `library` gives None, and its callers compute with torch.
`FATHOM_NATIVE` forces an instruction set, or `off`. Does not know what the files compute.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
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
COMMON = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-fopenmp"]


def library(name: str) -> ctypes.CDLL | None:
    """The functions of `name`.cpp for this machine; None where they are switched off or cannot be had."""
    kind = instruction_set()
    return None if kind is None else load(name, kind)


def instruction_set() -> str | None:
    """The best that this machine has, or what FATHOM_NATIVE names; None: off, or no compiler."""
    forced = os.environ.get("FATHOM_NATIVE", "auto")
    if forced == "off":
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
    if os.environ.get("FATHOM_NATIVE") == "off":
        return "native kernels off: torch computes"
    if not compiler():
        return "no native kernels: found no C++ compiler (install g++ or clang++, or set CXX): torch computes"
    kind = instruction_set()
    return f"native kernels ({kind})" if library("panels") else f"no native kernels: {failure.get(kind or '', '')}"


failure: dict[str, str] = {}  # instruction set -> why it could not be compiled, in one line


@functools.cache
def load(name: str, kind: str) -> ctypes.CDLL | None:
    """The library of one file for one instruction set, from the cache or compiled now."""
    flags = FLAGS[kind] + (["-mavx512bf16"] if kind == "avx512" and "avx512_bf16" in features() else [])
    try:
        import torch  # noqa: F401  # its OpenMP comes first, so that both share the threads of one pool

        return ctypes.CDLL(str(compiled(name, flags)))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        failure[kind] = next((line for line in said.splitlines() if "error" in line), said.splitlines()[0])
        return None


def compiled(name: str, flags: list[str]) -> Path:
    """Where the library lies, after compiling it if it is not there yet."""
    command = [*(compiler() or ["c++"]), *COMMON, *flags]
    text = b"".join(path.read_bytes() for path in sorted(SOURCES.glob("*.[ch]*")) if path.suffix in (".cpp", ".h"))
    mark = hashlib.sha256(text + shlex.join(command).encode() + version().encode()).hexdigest()[:16]
    target = cache() / f"{name}-{mark}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as place:
            made = Path(place, target.name)
            command += [str(SOURCES / f"{name}.cpp"), "-o", str(made)]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
            made.replace(target)  # whole or not at all, whoever else compiles it too
    return target


@functools.cache
def compiler() -> list[str] | None:
    """The C++ compiler: what CXX says, else what is on the path."""
    if said := os.environ.get("CXX"):
        return shlex.split(said)
    found = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    return [found] if found else None


@functools.cache
def version() -> str:
    done = subprocess.run([*(compiler() or ["c++"]), "--version"], capture_output=True, text=True, timeout=60)
    return done.stdout


def cache() -> Path:
    """A folder of the user's own; one that vanishes with the system's temporary files where there is no such."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for folder in (home / "fathom" / "native", Path(tempfile.gettempdir(), f"fathom-native-{os.getuid()}")):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK):
                return folder
        except OSError:
            continue
    raise OSError(f"found no folder to keep compiled code in; make {home} writable or set XDG_CACHE_HOME")


@functools.cache
def features() -> frozenset[str]:
    """What this processor can do, as Linux names it."""
    if platform.system() == "Darwin":
        return frozenset({"asimddp"} if platform.machine() == "arm64" else {"avx2", "fma", "f16c"})
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    lines = (line.split(":", 1)[1] for line in text.splitlines() if line.startswith(("flags", "Features")))
    return frozenset(next(lines, "").split())
