"""Pages quote the source that runs, have one title, and all their links lead somewhere."""

import importlib.util
import re
from pathlib import Path

import pytest

from tests.house.source import ROOT, name, tracked

PAGES = [path for path in tracked() if path.suffix == ".md"]
CONCEPTS = [path for path in PAGES if path.parent == ROOT / "docs"]
spec = importlib.util.spec_from_file_location("refresh", ROOT / "docs" / "refresh.py")
assert spec is not None and spec.loader is not None
refresh = importlib.util.module_from_spec(spec)
spec.loader.exec_module(refresh)


def prose(path: Path) -> str:
    """A page without its code."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.S)


def anchors(path: Path) -> set[str]:
    """What `page#anchor` can lead to: headings, in lower case, with hyphens for spaces."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", CONCEPTS, ids=name)
def test_quotes_are_the_source(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("<!-- source:") == len(refresh.QUOTE.findall(text)), "a marker with no python block under it"
    assert refresh.refreshed(text, path.name) == text, "run `make docs`"


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_a_page_has_one_title_at_its_top(path: Path) -> None:
    titles = [line for line in prose(path).splitlines() if line.startswith("# ")]
    assert len(titles) == 1 and prose(path).startswith(titles[0])


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)|(?:href|src)=\"([^\"]+)\"", prose(path))
    for link in (one or other for one, other in links):
        target, _, anchor = link.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        there = (path.parent / target).resolve() if target else path
        assert there.exists(), f"{name(path)} links to {link}"
        assert not anchor or anchor in anchors(there), f"{name(path)} links to {link}"


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_percent_is_written_one_way(path: Path) -> None:
    """As in 95%, in prose and in tables: the figure, then its sign."""
    assert not re.findall(r"\d\s%", prose(path))
