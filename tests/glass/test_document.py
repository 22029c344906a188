"""The exported file: a mistake that it shows on purpose is no failed check of the model."""

import os
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from fathom.glass import bundle
from fathom.glass import document as module
from fathom.glass.document import document
from fathom.glass.panels import is_wrong
from fathom.glass.passes import Pass
from fathom.inspect import group_view
from tests.architectures import LLAMA
from tests.glass.panels import a_pass
from tests.house.source import ROOT


def test_a_mistake_on_purpose_is_not_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "bundle", lambda: ("", ""))
    run = a_pass(replace(LLAMA, n_layer=1))
    made = document(run, ["groups"])
    assert not made.panels["A/groups?fault=tile"].ok and made.panels["A/groups?"].ok and not made.failed
    monkeypatch.setattr(group_view, "groups", group_view.tiled)
    assert [line.partition(",")[0] for line in document(Pass(run.subject, run.ids), ["groups"]).failed] == [
        "A/groups: C10"
    ]


def test_a_check_that_fails_in_several_views_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "bundle", lambda: ("", ""))
    monkeypatch.setattr(group_view, "groups", group_view.tiled)
    lines = document(a_pass(LLAMA), ["groups"]).failed
    assert len(lines) == 1 and lines[0].startswith("A/groups: C10, ") and lines[0].endswith(" (in 3 views)")


def test_it_says_which_panel_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "bundle", lambda: ("", ""))
    told: list[tuple[str, int, int]] = []
    document(a_pass(LLAMA), ["next-token", "groups"], "", lambda *told_of: told.append(told_of))
    assert told == [("Next token", 1, 2), ("Grouped queries", 2, 2)]


def test_what_is_wrong_on_purpose() -> None:
    class Named:
        fault = "none"
        wrong = True

    class Plain:
        fault = "none"

    assert is_wrong(Named()) and not is_wrong(Plain()) and not is_wrong(object())


def test_a_page_that_is_older_than_its_sources_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_from_file_location("page_build", ROOT / "web" / "page_build.py")
    assert spec is not None and spec.loader is not None
    builder = module_from_spec(spec)
    spec.loader.exec_module(builder)
    web, glass = tmp_path / "web", tmp_path / "src" / "fathom" / "glass"
    for place, here, built in ((builder, "GLASS", glass / "built"), (bundle, "HERE", glass / "built")):
        monkeypatch.setattr(place, "WEB", web)
        monkeypatch.setattr(place, here, glass)
        monkeypatch.setattr(place, "BUILT", built)
    assert bundle.outdated() == "", "no checkout"
    for path in (web / "build.mjs", web / "package-lock.json", web / "src" / "a.ts", web / "tools" / "b.mjs"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    (glass / "built").mkdir(parents=True)
    (glass / "built" / "page.js").write_text("page")
    (glass / "built" / "licences.txt").write_text(f"Made of sources with SHA-256 {builder.stamp()}.")
    assert bundle.outdated() == ""
    later = (glass / "built" / "page.js").stat().st_mtime + 10
    os.utime(web / "src" / "a.ts", (later, later))
    assert bundle.outdated() == "", "newer, and the same"
    (web / "src" / "a.ts").write_text("2")
    os.utime(web / "src" / "a.ts", (later, later))
    assert "make page" in bundle.outdated() and "\n" not in bundle.outdated()
