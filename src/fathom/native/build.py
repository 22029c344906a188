"""Compile the C++ files of this package, each at its first use, and load them.

One shared library per file and instruction set, cached under a name with a hash of its inputs and one of its contents.
Native code is optional: without a compiler `library` returns None, and its callers compute with torch.
`FATHOM_NATIVE` selects an instruction set, or `off`.
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
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fathom.errors import FathomError, near

SOURCES = Path(__file__).parent
X86 = ["-mavx2", "-mfma", "-mf16c"]
FLAGS = {  # best first; isa.h selects its code by the macros that these define
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
REQUIRED = {  # processor features, by the names of Linux
    "avx512": {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"},
    "avx2": {"avx2", "fma", "f16c"},
    "neon": {"asimddp"},
    "plain": set[str](),
}
COMMON = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-Werror=switch", "-shared", "-fPIC"]
COMPILE_TIMEOUT = 300  # seconds for one file, which takes about ten
OPENMP = [["-fopenmp"], []]  # not every compiler has it; without, code runs on one thread
DARWIN_FEATURES = {  # names of sysctl -> names of Linux
    "hw.optional.avx2_0": "avx2",
    "hw.optional.fma": "fma",
    "hw.optional.f16c": "f16c",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
}
failures: dict[str, str] = {}  # instruction set -> why it could not be compiled, in one line
compiled: dict[str, float] = {}  # file -> seconds that it took to compile in this process
listeners: list[Callable[[str], None]] = []  # called with the name of a file before it is compiled
single_threaded: set[str] = set()  # instruction sets compiled without OpenMP


def library(name: str) -> ctypes.CDLL | None:
    """The functions of `name`.cpp for this machine; None where they are switched off or cannot be compiled."""
    kind = instruction_set()
    return None if kind is None else load(name, kind)


def instruction_set() -> str | None:
    """The one that FATHOM_NATIVE names, else the best of this machine; None: switched off, or no compiler."""
    forced = os.environ.get("FATHOM_NATIVE") or "auto"
    if forced == "off" or os.name != "posix":
        return None
    available = [kind for kind in FLAGS if REQUIRED[kind] <= features()]
    if forced == "auto":
        return available[0] if compiler() else None
    if forced not in available:
        raise FathomError(f"FATHOM_NATIVE is {forced!r}{near(forced, FLAGS, then='expected')}"
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
        return f"no native kernels: {failures.get(kind, '')}"
    return f"native kernels ({kind}{', one thread: the compiler has no OpenMP' if kind in single_threaded else ''})"


@functools.cache
def load(name: str, kind: str) -> ctypes.CDLL | None:
    """The library of one file for one instruction set, from the cache or compiled now."""
    try:
        # imports torch, whose OpenMP is then loaded first: both share the threads of one pool
        from fathom.native.interface import declare

        return declare(load_or_compile(name, kind), name)
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, "stderr", None) or str(error)
        text = output.decode(errors="replace") if isinstance(output, bytes) else output
        lines = [line for line in text.splitlines() if line.strip()]
        failures[kind] = next((line for line in lines if "error" in line), (lines or [type(error).__name__])[0])
        return None


def load_or_compile(name: str, kind: str) -> ctypes.CDLL:
    """A cached library, else one compiled with OpenMP, else without. Raises the error of the first attempt."""
    errors: list[OSError | subprocess.SubprocessError] = []
    for command in sorted(commands(kind), key=lambda command: cached(name, command) is None):
        try:
            lib = ctypes.CDLL(str(cached(name, command) or compile_file(name, command)))
        except subprocess.TimeoutExpired:
            raise  # without OpenMP it would hang as long
        except (OSError, subprocess.SubprocessError) as error:
            errors.append(error)
        else:
            single_threaded.update(() if "-fopenmp" in command else (kind,))
            return lib
    raise errors[0]


def commands(kind: str) -> list[list[str]]:
    """The compiler commands for an instruction set, without input and output, best first."""
    flags = FLAGS[kind] + (["-mavx512bf16"] if kind == "avx512" and "avx512_bf16" in features() else [])
    return [[*(compiler() or ["c++"]), *COMMON, *flags, *openmp] for openmp in OPENMP]


def cached(name: str, command: list[str]) -> Path | None:
    """The library that this command compiled earlier, if any. A damaged file, which could crash the process that loads
    it, does not match the hash in its name and is ignored."""
    files = sorted(cache_folder().glob(f"{name}-{fingerprint(command)}-*.so"))
    return next((path for path in files if path.stem.rpartition("-")[2] == digest(path.read_bytes())), None)


def compile_file(name: str, command: list[str]) -> Path:
    """The library, compiled now, or meanwhile by another process."""
    with locked(cache_folder()), tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
        if path := cached(name, command):
            return path
        output = Path(folder, "output.so")
        arguments = [str(SOURCES / f"{name}.cpp"), "-o", str(output)]
        for listener in listeners:
            listener(name)
        began = time.perf_counter()
        try:
            subprocess.run(command + arguments, check=True, capture_output=True, timeout=COMPILE_TIMEOUT)
        finally:
            compiled[name] = compiled.get(name, 0.0) + time.perf_counter() - began
        target = cache_folder() / f"{name}-{fingerprint(command)}-{digest(output.read_bytes())}.so"
        return output.replace(target)  # atomic: nobody loads half a file


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on the folder, so that of several processes only one compiles a library."""
    import fcntl  # exists only on POSIX, like native code

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: each process compiles
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def fingerprint(command: list[str]) -> str:
    """A hash of all that goes into a library: sources, command, version of the compiler."""
    text = b"".join(path.read_bytes() for path in sorted(SOURCES.glob("*.[ch]*")) if path.suffix in (".cpp", ".h"))
    return digest(text + shlex.join(command).encode() + compiler_version())


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


@functools.cache
def compiler() -> list[str] | None:
    """The command of the C++ compiler: CXX, else the first on the path."""
    if (command := os.environ.get("CXX", "")).strip():
        try:
            return shlex.split(command)
        except ValueError:  # an open quotation mark
            return [command]
    path = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    return [path] if path else None


@functools.cache
def compiler_version() -> bytes:
    done = subprocess.run([*(compiler() or ["c++"]), "--version"], capture_output=True, timeout=60)
    return done.stdout


def cache_folder() -> Path:
    """A folder that belongs to the user and that nobody else can write to, because its files are executed. OSError."""
    for folder in candidate_folders():
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            info = folder.lstat()  # not stat: whoever made a link decides where it leads
            own = stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and not info.st_mode & 0o022
            if own and os.access(folder, os.W_OK):
                return folder
    raise OSError("found no private folder for compiled code; set XDG_CACHE_HOME to a writable folder of your own")


def candidate_folders() -> Iterator[Path]:
    """The user's cache, then the system's temporary folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))  # ignored unless absolute (XDG Base Directory, 0.8)
    with suppress(RuntimeError, OSError):  # there may be no home
        yield ((cache if cache.is_absolute() else Path.home() / ".cache") / "fathom" / "native").resolve()
    yield Path(tempfile.gettempdir(), f"fathom-native-{os.getuid()}")


@functools.cache
def features() -> frozenset[str]:
    """The features of this processor, by the names of Linux."""
    if platform.system() == "Darwin":
        return darwin_features(subprocess.run(["sysctl", "hw.optional"], capture_output=True, text=True).stdout)
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    lines = (line.split(":", 1)[1] for line in text.splitlines() if line.startswith(("flags", "Features")))
    return frozenset(next(lines, "").split())


def darwin_features(output: str) -> frozenset[str]:
    """The features in the output of `sysctl hw.optional`; to an Intel program, Rosetta reports what it translates."""
    pairs = (line.split(":", 1) for line in output.splitlines() if ":" in line)
    return frozenset(DARWIN_FEATURES[name] for name, value in pairs if name in DARWIN_FEATURES and value.strip() == "1")
