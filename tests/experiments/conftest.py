"""A small text with structure, and the ladder on it that the tests share."""

import random
from pathlib import Path

import pytest

from fathom.experiments.experiment import ladder
from fathom.experiments.options import LadderOptions
from fathom.experiments.result import LadderResult
from fathom.training.events import Event

SMALL = {"steps": 12, "seeds": 2, "minutes": 30.0, "context_length": 8, "d_model": 8, "batch_size": 4, "evaluations": 3}


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "words.txt"
    chance = random.Random(0)
    path.write_text(" ".join(chance.choice(["sea", "tea", "tease", "<eat>", "sat"]) for _ in range(2000)))
    return path


@pytest.fixture(scope="session")
def climbed(words: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[LadderResult, Path, list[Event]]:
    """A complete ladder, its folder, and what was said while it was climbed."""
    folder, said = tmp_path_factory.mktemp("ladder") / "run", []
    return ladder(LadderOptions(data=str(words), **SMALL), folder, report=said.append), folder, said
