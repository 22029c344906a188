"""A picture of each panel, by a browser that is there; one line where there is none or it makes none."""

import os
from pathlib import Path

import pytest

from fathom.errors import FathomError
from fathom.glass import pictures
from fathom.glass.pictures import BROWSERS

COPY = 'for a in "$@"; do case $a in --screenshot=*) to=${a#*=};; file:*) page=$a;; esac; done; echo "$page" > "$to"'


def browser(folder: Path, script: str) -> None:
    path = folder / BROWSERS[0]
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def path_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    (tmp_path / "look.html").write_text("<p>here</p>")
    return tmp_path


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_a_picture_of_each_panel(path_alone: Path) -> None:
    browser(path_alone, COPY)
    made = pictures.pictures(path_alone / "look.html", ["heads", "lens"], path_alone / "there")
    assert [path.name for path in made] == ["heads.png", "lens.png"]
    assert made[1].read_text().strip() == f"{(path_alone / 'look.html').as_uri()}#panel=lens"


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_no_browser_and_no_picture_are_one_line(path_alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    browser(path_alone, "exit 3")
    with pytest.raises(FathomError, match="made no picture of heads; open"):
        pictures.pictures(path_alone / "look.html", ["heads"], path_alone / "there")
    monkeypatch.setenv("PATH", str(path_alone / "nothing"))
    with pytest.raises(FathomError, match="--png needs a browser"):
        pictures.pictures(path_alone / "look.html", ["heads"], path_alone / "there")
