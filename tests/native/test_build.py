"""Compiling at first use: what is chosen, what happens where nothing can be compiled."""

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


def fresh(environment: dict[str, str], line: str) -> str:
    """What a process of its own prints."""
    code = f"from fathom.native import build; {line}"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_off_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FATHOM_NATIVE", "off")
    assert build.library("panels") is None
    assert build.status() == "native kernels off: torch computes"


def test_an_unknown_instruction_set_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FATHOM_NATIVE", "avx521")
    with pytest.raises(FathomError, match=r"FATHOM_NATIVE is 'avx521'.*plain") as caught:
        build.library("panels")
    assert "\n" not in str(caught.value)


@needs_compiler
def test_compiled_once_and_kept(tmp_path: Path) -> None:
    place = {"XDG_CACHE_HOME": str(tmp_path), "FATHOM_NATIVE": "plain"}
    assert fresh(place, "print(build.library('panels') is not None)") == "True"
    (made,) = (tmp_path / "fathom" / "native").iterdir()
    before = made.stat().st_mtime_ns
    assert fresh(place, "print(build.status())") == "native kernels (plain)"
    assert made.stat().st_mtime_ns == before


def test_no_compiler_is_no_failure(tmp_path: Path) -> None:
    place = {"XDG_CACHE_HOME": str(tmp_path), "FATHOM_NATIVE": "auto", "CXX": str(tmp_path / "none")}
    assert fresh(place, "print(build.library('panels'))") == "None"
    assert fresh(place, "print(build.status())").startswith("no native kernels: ")


@needs_compiler
def test_a_compiler_that_fails_is_said_in_one_line(tmp_path: Path) -> None:
    place = {"XDG_CACHE_HOME": str(tmp_path), "FATHOM_NATIVE": "plain", "CXX": "c++ -no-such-flag"}
    said = fresh(place, "print(build.library('panels')); print(build.status())").splitlines()
    assert said[0] == "None"
    assert "no-such-flag" in said[1]
    assert not list((tmp_path / "fathom" / "native").iterdir())


THERE = "print(build.library('nf4') is not None)"


def script(path: Path, text: str) -> str:
    """A compiler of our own making."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


@needs_compiler
@pytest.mark.parametrize("damage", [lambda x: x[: len(x) // 2], lambda x: b"", lambda x: x[:5000] + b"?" + x[5001:]])
def test_a_damaged_library_is_compiled_anew(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """To load half of one would end the process."""
    place = {"XDG_CACHE_HOME": str(tmp_path), "FATHOM_NATIVE": "plain"}
    assert fresh(place, "print(build.waits('nf4'), build.library('nf4') is not None)") == "True True"
    assert fresh(place, "print(build.waits('nf4'))") == "False"
    (made,) = (tmp_path / "fathom" / "native").iterdir()
    made.write_bytes(damage(made.read_bytes()))
    assert fresh(place, f"print(build.waits('nf4')); {THERE}") == "True\nTrue"
    assert fresh(place, "print(build.waits('nf4'))") == "False"


@needs_compiler
def test_a_compiler_without_openmp_gives_one_thread(tmp_path: Path) -> None:
    alone = script(
        tmp_path / "alone", f'case "$*" in *fopenmp*) echo error: no OpenMP >&2; exit 1;; esac; exec {REAL} "$@"'
    )
    place = {"XDG_CACHE_HOME": str(tmp_path), "FATHOM_NATIVE": "plain", "CXX": alone}
    for _ in range(2):  # compiled, then kept
        assert fresh(place, "print(build.status())") == "native kernels (plain, one thread: the compiler has no OpenMP)"
    assert fresh(place, "print(build.library('step') is not None)") == "True"
    unlinked = script(
        tmp_path / "unlinked", f'{REAL} "$@" && for o; do :; done; case "$*" in *fopenmp*) echo > $o;; esac'
    )
    assert fresh(place | {"CXX": unlinked}, THERE) == "True"  # compiled with it, but cannot be loaded


@needs_compiler
@pytest.mark.parametrize(
    "cxx",
    [
        "exit 1",  # without a word
        "echo >&2; exit 1",  # with none either
        "printf '\\377 error\\n' >&2; exit 1",  # in no encoding
        "exit 0",  # and nothing made
        "exec sleep 60",
    ],
)
def test_whatever_a_compiler_does_torch_goes_on(tmp_path: Path, cxx: str) -> None:
    bad = script(tmp_path / "bad", f'[ "$1" = --version ] && exit 0; {cxx}')
    place = {"XDG_CACHE_HOME": str(tmp_path), "FATHOM_NATIVE": "plain", "CXX": bad}
    patience = "build.PATIENCE = 1; print(build.library('nf4')); print(build.status())"
    none, said = fresh(place, patience).split("\n")
    assert none == "None"
    assert said.startswith("no native kernels: ") and len(said) > 20


def test_an_open_quotation_mark_is_no_traceback(tmp_path: Path) -> None:
    place = {"XDG_CACHE_HOME": str(tmp_path), "FATHOM_NATIVE": "plain", "CXX": "c++ 'x"}
    assert fresh(place, "print(build.library('nf4'))") == "None"


@needs_compiler
def test_paths_and_compilers_with_spaces(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    own = script(folder / "my c++", f'exec {REAL} "$@"')
    place = {"XDG_CACHE_HOME": str(folder), "FATHOM_NATIVE": "plain", "CXX": f"'{own}' -O1"}
    assert fresh(place, THERE) == "True"


@needs_compiler
def test_a_choice_without_a_case_does_not_compile(tmp_path: Path) -> None:
    """So that a new activation is never computed as another one."""
    shutil.copytree(build.SOURCES, tmp_path, dirs_exist_ok=True)
    source = tmp_path / "step.cpp"
    command = [*(build.compiler() or ()), *build.COMMON, "-fsyntax-only", str(source)]
    assert subprocess.run(command, capture_output=True).returncode == 0
    source.write_text(source.read_text().replace("RELU2, SWIGLU }", "RELU2, SWIGLU, NEW }"))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0 and "NEW" in done.stderr


@needs_compiler
def test_many_at_once_compile_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    counted = script(tmp_path / "counted", f'[ "$1" = --version ] || echo >> {shlex.quote(str(log))}; exec {REAL} "$@"')
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "FATHOM_NATIVE": "plain", "CXX": counted}
    code = f"from fathom.native import build; {THERE}"
    running = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [one.communicate()[0].strip() for one in running] == ["True"] * 3
    assert [path.suffix for path in (tmp_path / "fathom" / "native").iterdir()] == [".so"]
    assert log.read_text() == "\n"


class TestWhereItLies:
    @pytest.fixture(autouse=True)
    def temporary(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        return tmp_path / f"fathom-native-{os.getuid()}"

    def test_in_the_users_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        assert build.cache() == tmp_path / "cache" / "fathom" / "native"
        assert build.cache().stat().st_mode & 0o777 == 0o700

    def test_a_relative_cache_means_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", "here")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert build.cache() == tmp_path / "home" / ".cache" / "fathom" / "native"

    def test_no_home_or_one_that_cannot_be_written_to(
        self, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        assert build.cache() == temporary
        monkeypatch.delenv("XDG_CACHE_HOME")

        def homeless() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", homeless)
        assert build.cache() == temporary

    def test_never_where_others_can_write(
        self, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        (tmp_path / "fathom" / "native").mkdir(parents=True)
        (tmp_path / "fathom" / "native").chmod(0o777)
        assert build.cache() == temporary
        shutil.rmtree(temporary)
        temporary.symlink_to(tmp_path)  # as a stranger may have put it there
        with pytest.raises(OSError, match="set XDG_CACHE_HOME"):
            build.cache()


def test_what_darwin_says() -> None:
    said = "hw.optional.avx2_0: 1\nhw.optional.fma: 1\nhw.optional.f16c: 0\nhw.optional.floatingpoint: 1\nodd\n"
    assert build.of_darwin(said) == {"avx2", "fma"}
    assert build.of_darwin("hw.optional.arm.FEAT_DotProd: 1\n") == build.NEEDS["neon"]


def test_off_where_there_is_no_posix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "name", "nt")
    monkeypatch.setenv("FATHOM_NATIVE", "plain")
    assert build.library("panels") is None
    assert not build.waits("panels")
