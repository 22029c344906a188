"""What the page says of each panel, and the stops of its tour: the texts of prose/, one file a panel.

A panel's file is the question to guess, three sentences as paragraphs, and the formula as TeX between lines of $$,
which the build of the page turns into MathML. A stop of the tour is a title, the panel it stands at, a text, and what
to try.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from fathom.glass.bundle import formulas
from fathom.glass.panels import PANELS

PROSE = Path(__file__).with_name("prose")


def explained(ids: Collection[str] = ()) -> list[dict[str, Any]]:
    """Of these panels, or of all: id, place, title, question, sentences, and the formula as a tree of MathML."""
    trees = formulas()
    return [
        {"id": id, "place": one.place, "title": one.title, **described(id), "formula": trees.get(id)}
        for id, one in PANELS.items()
        if id in (ids or PANELS)
    ]


def described(id: str) -> dict[str, Any]:
    """The question and the sentences of a panel."""
    question, *sentences = paragraphs((PROSE / f"{id}.txt").read_text(encoding="utf-8").partition("$$")[0])
    return {"question": question, "sentences": sentences}


def tour(ids: Collection[str] = ()) -> list[dict[str, str]]:
    """The stops at these panels, or all: panel, title, text, attempt."""
    found = []
    for part in (PROSE / "tour.txt").read_text(encoding="utf-8").split("# ")[1:]:
        title, panel, text, attempt = paragraphs(part)
        stop = {"panel": panel.removeprefix("panel: "), "title": title, "text": text}
        found.append(stop | {"attempt": attempt.removeprefix("Try: ")})
    return [stop for stop in found if stop["panel"] in (ids or PANELS)]


def paragraphs(text: str) -> list[str]:
    """Each on one line."""
    return [" ".join(one.split()) for one in text.split("\n\n") if one.strip()]
