"""How much of everything there may be, so that each room can be read standing."""

import dataclasses
from pathlib import Path
from statistics import median

import pytest

from fathom.model.config import ModelConfig
from tests.house.source import MODULES, PACKAGE, ROOT, functions, name

MODEL = sorted((PACKAGE / "model").glob("*.py"))
HOUSE = sorted((ROOT / "tests" / "house").glob("test_*.py"))


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_config_fields() -> None:
    assert len(dataclasses.fields(ModelConfig)) <= 20


@pytest.mark.parametrize("paths, most", [(MODEL, 1435), ([PACKAGE / "model" / "transformer.py"], 150)])
def test_the_model_is_short(paths: list[Path], most: int) -> None:
    assert sum(map(lines, paths)) <= most


@pytest.mark.parametrize("paths, most", [(MODULES, 350), (HOUSE, 60)], ids=["package", "house"])
def test_files_are_short(paths: list[Path], most: int) -> None:
    assert not {name(path): lines(path) for path in paths if lines(path) > most}


def test_functions_are_short_and_take_little() -> None:
    found = [(f"{name(path)}:{f.name}", f) for path in MODULES for f in functions(path)]
    length = {where: (f.end_lineno or 0) - f.lineno + 1 for where, f in found}
    own = {where: [a.arg for a in (*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs)] for where, f in found}
    assert not {where: n for where, n in length.items() if n > 60}
    assert not {where: names for where, names in own.items() if len(set(names) - {"self", "cls"}) > 7}
    assert median(length.values()) <= 12  # "about 10"
