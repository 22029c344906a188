"""The ladder that the package holds is the one that docs/ladder.md shows."""

import re
from pathlib import Path

from fathom.experiments.recorded import COMMAND, recorded
from fathom.experiments.tables import BOUGHT, WORTH, difference, verdict

DOCS = (Path(__file__).parents[2] / "docs" / "ladder.md").read_text(encoding="utf-8")


def rows(columns: int) -> dict[str, list[str]]:
    """The rows of the page's table with so many columns, by their first cell."""
    cells = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in DOCS.splitlines() if line.startswith("| ")
    )
    return {row[0]: row[1:] for row in cells if len(row) == columns}


def test_rungs_are_those_of_the_page() -> None:
    result, shown = recorded(), rows(4)
    assert result.complete and COMMAND in DOCS
    for rung in (*result.ladder, *result.beside):
        gain = result.gain(rung.key)
        bought = [difference(gain), verdict(gain, BOUGHT)] if gain else ["", ""]
        assert shown[rung.title] == [f"{result.loss(rung.key).mean:.3f}", *bought]


def test_take_aways_are_those_of_the_page() -> None:
    result, shown = recorded(), rows(5)
    for rung in result.take_aways:
        name, idea = re.fullmatch(r"(GPT|LLaMA) without (.+)", rung.title).groups()
        worth = result.worth(rung)
        cells = shown[idea][:2] if name == "GPT" else shown[idea][2:]
        assert cells == [difference(worth), verdict(worth, WORTH)]
