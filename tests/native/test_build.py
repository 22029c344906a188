"""Compiling at first use: which instruction set is chosen, and what happens where compiling fails."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fathom.errors import FathomError
from fathom.native import build

REAL = shlex.join(build.compiler() or ["c++"])
needs_compiler = pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler")


WITHOUT_TORCH = """
import sys, types
sys.modules["fathom.native.interface"] = types.SimpleNamespace(declare=lambda library, name: library)
"""


def fresh(environment: dict[str, str], line: str, start: str = WITHOUT_TORCH) -> str:
    """The output of `line` in a new process; without torch, whose import takes longer than most compilations."""
    code = f"{start}\nfrom fathom.native import build; {line}"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_off_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FATHOM_NATIVE", "off")
    assert build.library("panels") is None
    assert build.status() == "native kernels off: torch computes"


def test_an_unknown_instruction_set_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FATHOM_NATIVE", "avx521")
    with pytest.raises(FathomError, match=r"FATHOM_NATIVE is 'avx521'.*plain") as caught:
        build.library("panels")
    assert "\n" not in str(caught.value)


@needs_compiler
def test_compiled_once_and_cached(tmp_path: Path) -> None:
    place = {"XDG_CACHE_HOME": str(tmp_path), "FATHOM_NATIVE": "plain"}
    assert fresh(place, "print(build.library('panels') is not None)", start="import torch") == "True"
    (library,) = (tmp_path / "fathom" / "native").iterdir()
    before = library.stat().st_mtime_ns
    assert fresh(place, "print(build.status())") == "native kernels (plain)"
    assert library.stat().st_mtime_ns == before


def test_without_a_compiler_there_is_no_library(tmp_path: Path) -> None:
    place = {"XDG_CACHE_HOME": str(tmp_path), "FATHOM_NATIVE": "auto", "CXX": str(tmp_path / "none")}
    assert fresh(place, "print(build.library('panels'))") == "None"
    assert fresh(place, "print(build.status())").startswith("no native kernels: ")


@needs_compiler
def test_a_failing_compiler_is_reported_in_one_line(tmp_path: Path) -> None:
    place = {"XDG_CACHE_HOME": str(tmp_path), "FATHOM_NATIVE": "plain", "CXX": "c++ -no-such-flag"}
    lines = fresh(place, "print(build.library('panels')); print(build.status())").splitlines()
    assert lines[0] == "None"
    assert "no-such-flag" in lines[1]
    assert not list((tmp_path / "fathom" / "native").iterdir())


LOADS = "print(build.library('nf4') is not None)"


def script(path: Path, text: str) -> str:
    """A shell script that acts as the compiler."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


@needs_compiler
@pytest.mark.parametrize("damage", [lambda x: x[: len(x) // 2], lambda x: b"", lambda x: x[:5000] + b"?" + x[5001:]])
def test_a_damaged_library_is_compiled_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """Loading half of one would crash the process."""
    place = {"XDG_CACHE_HOME": str(tmp_path), "FATHOM_NATIVE": "plain"}
    assert fresh(place, "print(build.library('nf4') is not None, *build.compiled)") == "True nf4"
    assert fresh(place, f"{LOADS}; print(*build.compiled)") == "True"
    (library,) = (tmp_path / "fathom" / "native").iterdir()
    library.write_bytes(damage(library.read_bytes()))
    assert fresh(place, "print(build.library('nf4') is not None, *build.compiled)") == "True nf4"
    assert fresh(place, f"{LOADS}; print(*build.compiled)") == "True"


@needs_compiler
def test_a_compiler_without_openmp_gives_one_thread(tmp_path: Path) -> None:
    no_openmp = script(
        tmp_path / "no_openmp",
        f'case "$*" in *fopenmp*) echo error: no OpenMP >&2; exit 1;; esac; exec {REAL} "$@" -O0',
    )
    place = {"XDG_CACHE_HOME": str(tmp_path), "FATHOM_NATIVE": "plain", "CXX": no_openmp}
    for _ in range(2):  # compiled, then cached
        assert fresh(place, "print(build.status())") == "native kernels (plain, one thread: the compiler has no OpenMP)"
    assert fresh(place, "print(build.library('step') is not None)") == "True"
    unlinked = script(
        tmp_path / "unlinked", f'{REAL} "$@" && for o; do :; done; case "$*" in *fopenmp*) echo > $o;; esac'
    )
    assert fresh(place | {"CXX": unlinked}, LOADS) == "True"  # compiles with OpenMP, but the result cannot be loaded


@needs_compiler
@pytest.mark.parametrize(
    "cxx",
    [
        "exit 1",  # no message
        "echo >&2; exit 1",  # an empty message
        "printf '\\377 error\\n' >&2; exit 1",  # not UTF-8
        "exit 0",  # no output file
        "exec sleep 60",
    ],
)
def test_whatever_a_compiler_does_torch_still_computes(tmp_path: Path, cxx: str) -> None:
    bad = script(tmp_path / "bad", f'[ "$1" = --version ] && exit 0; {cxx}')
    place = {"XDG_CACHE_HOME": str(tmp_path), "FATHOM_NATIVE": "plain", "CXX": bad}
    code = "build.COMPILE_TIMEOUT = 1; print(build.library('nf4')); print(build.status())"
    none, status = fresh(place, code).split("\n")
    assert none == "None"
    assert status.startswith("no native kernels: ") and len(status) > 20


def test_an_open_quotation_mark_is_no_traceback(tmp_path: Path) -> None:
    place = {"XDG_CACHE_HOME": str(tmp_path), "FATHOM_NATIVE": "plain", "CXX": "c++ 'x"}
    assert fresh(place, "print(build.library('nf4'))") == "None"


@needs_compiler
def test_paths_and_compilers_with_spaces(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    own = script(folder / "my c++", f'exec {REAL} "$@"')
    place = {"XDG_CACHE_HOME": str(folder), "FATHOM_NATIVE": "plain", "CXX": f"'{own}' -O1"}
    assert fresh(place, LOADS) == "True"


@needs_compiler
def test_a_choice_without_a_case_does_not_compile(tmp_path: Path) -> None:
    """So that a new activation is never computed as another one."""
    shutil.copytree(build.SOURCES, tmp_path, dirs_exist_ok=True)
    header = tmp_path / "step.h"
    command = [*(build.compiler() or ()), *build.COMMON, "-fsyntax-only", str(tmp_path / "step.cpp")]
    assert subprocess.run(command, capture_output=True).returncode == 0
    header.write_text(header.read_text().replace("SWIGLU, GEGLU }", "SWIGLU, GEGLU, NEW }"))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0 and "NEW" in done.stderr


@needs_compiler
def test_many_at_once_compile_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    counted = script(tmp_path / "counted", f'[ "$1" = --version ] || echo >> {shlex.quote(str(log))}; exec {REAL} "$@"')
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "FATHOM_NATIVE": "plain", "CXX": counted}
    code = f"{WITHOUT_TORCH}\nfrom fathom.native import build; {LOADS}"
    running = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [one.communicate()[0].strip() for one in running] == ["True"] * 3
    assert [path.suffix for path in (tmp_path / "fathom" / "native").iterdir()] == [".so"]
    assert log.read_text() == "\n"


class TestCacheFolder:
    @pytest.fixture(autouse=True)
    def temporary(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        return tmp_path / f"fathom-native-{os.getuid()}"

    def test_is_in_the_users_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        assert build.cache_folder() == tmp_path / "cache" / "fathom" / "native"
        assert build.cache_folder().stat().st_mode & 0o777 == 0o700

    def test_a_relative_cache_is_ignored(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", "here")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert build.cache_folder() == tmp_path / "home" / ".cache" / "fathom" / "native"

    def test_is_temporary_without_a_writable_home(
        self, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        assert build.cache_folder() == temporary
        monkeypatch.delenv("XDG_CACHE_HOME")

        def homeless() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", homeless)
        assert build.cache_folder() == temporary

    def test_is_never_writable_by_others(
        self, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        (tmp_path / "fathom" / "native").mkdir(parents=True)
        (tmp_path / "fathom" / "native").chmod(0o777)
        assert build.cache_folder() == temporary
        shutil.rmtree(temporary)
        temporary.symlink_to(tmp_path)  # as an attacker could have
        with pytest.raises(OSError, match="set XDG_CACHE_HOME"):
            build.cache_folder()


def test_features_of_darwin() -> None:
    output = "hw.optional.avx2_0: 1\nhw.optional.fma: 1\nhw.optional.f16c: 0\nhw.optional.floatingpoint: 1\nodd\n"
    assert build.darwin_features(output) == {"avx2", "fma"}
    assert build.darwin_features("hw.optional.arm.FEAT_DotProd: 1\n") == build.REQUIRED["neon"]


def test_off_without_posix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "name", "nt")
    monkeypatch.setenv("FATHOM_NATIVE", "plain")
    assert build.library("panels") is None


@needs_compiler
def test_compiling_is_announced_when_it_happens_and_is_no_time_of_the_model(tmp_path: Path) -> None:
    place = {"XDG_CACHE_HOME": str(tmp_path), "FATHOM_NATIVE": "plain"}
    line = (
        "from fathom.native.stopwatch import Stopwatch; build.listeners.append(print); clock = Stopwatch();"
        " build.library('nf4'); whole = sum(build.compiled.values()); lap = clock.lap();"
        " print(whole > 0.05, lap < whole) if build.compiled else print('no time', whole)"
    )
    assert fresh(place, line) == "nf4\nTrue True"
    assert fresh(place, line) == "no time 0"
