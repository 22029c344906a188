"""What the page says of each panel, and the stops of its tour: the texts of prose/, one file a panel.

A panel's file is the question to guess, three sentences as paragraphs, the formula as TeX between lines of $$, which
the build of the page turns into MathML, and notes under headings, which stand beside what they speak of. A stop of the
tour is a title, the panel it stands at, the part of it that must be in sight on a narrow screen, a text, and what to
try; what is in brackets is said only where it is true of the model and of the page.
"""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from fathom.glass.bundle import formulas
from fathom.glass.heads import teaching
from fathom.glass.panels import PANELS
from fathom.glass.passes import Pass

PROSE = Path(__file__).with_name("prose")


def explained(ids: Collection[str] = ()) -> list[dict[str, Any]]:
    """Of these panels, or of all: id, place, title, question, sentences, notes, and the formula as a tree of MathML."""
    trees = formulas()
    return [
        {"id": id, "place": one.place, "title": one.title, **described(id), "formula": trees.get(id)}
        for id, one in PANELS.items()
        if id in (ids or PANELS)
    ]


def described(id: str) -> dict[str, Any]:
    """The question, the sentences and the notes of a panel."""
    said, *noted = (PROSE / f"{id}.txt").read_text(encoding="utf-8").split("\n# ")
    question, *sentences = paragraphs(said.partition("$$")[0])
    return {"question": question, "sentences": sentences, "notes": dict(map(paragraphs, noted))}


CLAUSE = re.compile(r"\[(no )?(\w+):([^]]*)\]")


def tour(
    ids: Collection[str] = (), true: Collection[str] = ("live", "mlp"), head: tuple[int, int] | None = None
) -> list[dict[str, Any]]:
    """The stops at these panels, or all: panel, part, title, text, attempt, and at panels of one head the head to open.

    true: what holds of `live` or `file`, of `runs`, which a page can start, of `mlp` and of `induction`. head: layer
    and head that teach most.
    """
    found: list[dict[str, Any]] = []
    for part in (PROSE / "tour.txt").read_text(encoding="utf-8").split("# ")[1:]:
        title, where, *said = paragraphs(part)
        panel, _, inside = where.removeprefix("panel: ").partition(" ")
        text, attempt = (fitted(one, true, head) for one in said)
        stop = {"panel": panel, "part": inside, "title": title, "text": text, "attempt": attempt.removeprefix("Try: ")}
        found.append(stop | ({"head": head} if head and panel in ("heads", "microscope") else {}))
    return [stop for stop in found if stop["panel"] in (ids or PANELS)]


def fitted(text: str, true: Collection[str], head: tuple[int, int] | None) -> str:
    """The text with the clauses in brackets that are true, and the head by name."""
    said = CLAUSE.sub(lambda one: one[3] if (one[2] in true) != bool(one[1]) else "", text)
    name = "layer {} head {}".format(*head) if head else "this head"
    said = said.replace("{head}", name).replace("{Head}", name.capitalize())
    return re.sub(r" +(?=[ .,:;])", "", said).strip()


def tour_of(run: Pass, place: Collection[str], ids: Collection[str] = ()) -> list[dict[str, Any]]:
    """The stops for a model. place: "live" or "file", and "runs" where the page can start one."""
    head, copying = teaching(run)
    known = {"mlp": run.model.config.mlp != "none", "induction": copying}
    stops = tour(ids, {*place, *(name for name, holds in known.items() if holds)}, head)
    middle = run.t // 2  # the last token has no future to see without the mask
    return [stop | {"query": middle} if stop["part"] == ".panel-tools" else stop for stop in stops]


def paragraphs(text: str) -> list[str]:
    """Each on one line."""
    return [" ".join(one.split()) for one in text.split("\n\n") if one.strip()]
