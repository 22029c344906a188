"""The exported file: a mistake that it shows on purpose is no failed check of the model."""

from dataclasses import replace

import pytest

from fathom.glass import document as module
from fathom.glass.document import document
from fathom.glass.panels import is_wrong
from fathom.glass.passes import Pass
from fathom.inspect import group_view
from tests.architectures import LLAMA
from tests.glass.panels import a_pass


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
