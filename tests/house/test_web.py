"""The page's sources: short files, nothing random or parsed as HTML, nobody else's address, no registry in the lock."""

import json
import re
from pathlib import Path

import pytest

from tests.house.source import ROOT, name, tracked

SOURCES = [path for path in tracked() if path.is_relative_to(ROOT / "web") and path.name != "package-lock.json"]
FORBIDDEN = {
    "chance that a seed does not decide": r"Math\.random",
    "text that is parsed as HTML": r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment",
    "text that is run as code": r"\beval\(|new Function\(",
    "an address elsewhere": r"(?:https?:)?//(?!www\.w3\.org)\w+\.\w+",
}


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_files_are_short_and_keep_to_the_page(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    longest = 300 if path.suffix in {".ts", ".tsx", ".mjs"} else 600
    assert len(text.splitlines()) <= longest
    if path.is_relative_to(ROOT / "web" / "src"):
        assert not [f"{what}: {hit[0]}" for what, pattern in FORBIDDEN.items() for hit in re.finditer(pattern, text)]


def test_every_library_is_locked_by_its_hash_and_no_registry_is_named() -> None:
    packages = json.loads((ROOT / "web" / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert not [
        where for where, about in packages.items() if where and not about.get("integrity", "").startswith("sha")
    ]
    assert not [where for where, about in packages.items() if "resolved" in about]


def test_every_panel_has_one_view_in_the_navigation() -> None:
    folder = ROOT / "web" / "src" / "panels"
    listed = re.search(r"PANELS: readonly PanelView\[\] = \[(.*?)\];", (folder / "index.ts").read_text(), re.S)
    assert listed
    names = re.findall(r"\w+", listed[1])
    assert len(names) == len({*names}) == len([path for path in folder.iterdir() if path.is_dir()])
