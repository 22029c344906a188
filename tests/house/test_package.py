"""What is installed is what is here: every room is a package, every file in it is declared, every version is pinned."""

import re
import tomllib
from pathlib import Path

from tests.house.source import MODULES, PACKAGE, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_room_has_a_table_of_contents() -> None:
    """setuptools passes over folders without an __init__.py; each lists the files of its room."""
    for folder in {path.parent for path in MODULES} - {PACKAGE}:
        contents = (folder / "__init__.py").read_text(encoding="utf-8")
        listed = set(re.findall(r"\w+", contents))
        assert not {path.stem for path in folder.glob("*.py")} - listed - {"__init__"}, folder.name


def test_files_beside_the_source_are_declared() -> None:
    declared = PROJECT["tool"]["setuptools"]["package-data"]["fathom"]
    beside = [path for path in PACKAGE.rglob("*.*") if path.suffix not in {".py", ".pyc"} and path.is_file()]
    assert not [path for path in beside if not any(path.relative_to(PACKAGE).match(pattern) for pattern in declared)]


def test_every_dependency_is_pinned() -> None:
    lines = Path(ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {plain(line.partition("==")[0]) for line in lines if not line.startswith("#") and "==" in line}
    project = PROJECT["project"]
    wanted = [
        *project["dependencies"],
        *(need for extra in project["optional-dependencies"].values() for need in extra),
    ]
    assert (
        not {plain(re.split(r"[<>=!~\[; ]", need)[0]) for need in wanted + PROJECT["build-system"]["requires"]} - pins
    )
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines if not line.startswith("#"))


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
