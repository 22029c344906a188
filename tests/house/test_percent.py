"""A percentage is written one way in help and messages too, as in 95%; pages are in test_docs."""

import re
from pathlib import Path

import pytest

from tests.house.source import MODULES, name

AMISS = r"\d\s%(?![a-z( ])|\d\s?per ?cent"  # 95 %, 95 per cent
FILLED_IN = r"\}\s(%[\s.,;:)\"']|per ?cent)"  # {figure} %


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_percent_is_written_one_way(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        assert not re.search(f"{AMISS}|{FILLED_IN}", re.sub(r"\d % \w", "", line), re.I), line
