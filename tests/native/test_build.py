"""Compiling at first use: what is chosen, what happens where nothing can be compiled."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fathom.errors import FathomError
from fathom.native import build


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


@pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler")
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


@pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler")
def test_a_compiler_that_fails_is_said_in_one_line(tmp_path: Path) -> None:
    place = {"XDG_CACHE_HOME": str(tmp_path), "FATHOM_NATIVE": "plain", "CXX": "c++ -no-such-flag"}
    said = fresh(place, "print(build.library('panels')); print(build.status())").splitlines()
    assert said[0] == "None"
    assert "no-such-flag" in said[1]
    assert not list((tmp_path / "fathom" / "native").iterdir())
