"""The concept pages: every figure is drawn by the command, and every page is in the index."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(DOCS.glob("*.md"))


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("figures", DOCS / "figures.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def links(page: Path) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")) if "://" not in link]


def test_the_command_draws_exactly_the_figures_of_the_pages(figures: ModuleType, tmp_path: Path) -> None:
    figures.main(tmp_path)
    drawn = {f"figures/{path.name}" for path in tmp_path.iterdir()}
    shown = {link for page in PAGES for link in links(page) if link.endswith(".svg")}
    assert drawn == shown == {f"figures/{path.name}" for path in (DOCS / "figures").iterdir()}


def test_a_turned_score_depends_on_distance_alone(figures: ModuleType) -> None:
    """What the page says about its figure: two curves, one line."""
    a, b = (line.get_ydata() for line in figures.rope().axes[0].lines)
    assert max(abs(a - b)) < 1e-5 and a[0] == pytest.approx(1) and a[-1] < 0.6


def test_every_idea_of_the_ladder_has_its_page() -> None:
    from fathom.experiments.rungs import IDEAS

    pages = {idea.page for idea in IDEAS} - {""}
    assert pages <= {page.name for page in PAGES} and len(pages) >= 7
    assert set(links(DOCS / "README.md")) >= {page.name for page in PAGES} - {"README.md"}
