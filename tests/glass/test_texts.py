"""What the page says: each panel has its text, the tour ten stops, and a guess is answered by the numbers."""

import math
import re
from pathlib import Path

import pytest
import torch

from fathom.glass.guesses import GUESSES, enough, guess, word
from fathom.glass.panel import Panel, Series
from fathom.glass.panels import PANELS, filled
from fathom.glass.passes import first_pass
from fathom.glass.subject import open_subject
from fathom.glass.texts import PROSE, explained, tour, tour_of

WEB = Path(__file__).parents[2] / "web/src"
COPIED = "Xk7 Qp2 vR Lm9 Xk7 Qp2 vR Lm9"


def test_every_panel_is_explained() -> None:
    texts = explained()
    assert [one["id"] for one in texts] == list(PANELS) == list(GUESSES)
    assert {path.stem for path in PROSE.iterdir()} == {*PANELS, "tour"}
    for one in texts:
        assert one["question"].endswith("?") and len(one["sentences"]) == 3
        assert all(sentence.endswith(".") and "$" not in sentence for sentence in one["sentences"])
    assert [one["id"] for one in explained(["heads", "lens"])] == ["heads", "lens"]


def test_every_note_stands_somewhere_and_what_stands_there_is_written() -> None:
    written = [name for one in explained() for name in one["notes"]]
    sources = "".join(path.read_text() for path in WEB.rglob("*.tsx")) + (WEB / "panels/runs/live.ts").read_text()
    asked = re.findall(r'(?:<Note of=|noted\()"([^"]+)"', sources)
    assert len(set(written)) == len(written) and sorted(set(asked)) == sorted(written)
    assert all(text and "\n" not in text for one in explained() for text in one["notes"].values())


def test_ten_stops_of_five_minutes() -> None:
    stops = tour()
    words = sum(len(f"{stop['text']} {stop['attempt']}".split()) for stop in stops)
    assert len(stops) == 10 and words < 5 * 200
    assert {stop["panel"] for stop in stops} == {"ablation", "heads", "lens", "microscope", "next-token", "runs"}
    assert all(stop["title"] and not stop["attempt"].startswith("Try") for stop in stops)
    assert {stop["panel"] for stop in tour(["heads", "cost"])} == {"heads"}


def said(stops: list[dict[str, object]]) -> str:
    return " ".join(f"{stop['text']} {stop['attempt']}" for stop in stops)


def test_the_tour_speaks_of_the_model_and_the_page_that_are_there() -> None:
    copycat, gpt = (first_pass(open_subject(f"demo:{name}"), COPIED) for name in ("copycat", "gpt-tiny"))
    stops = tour_of(copycat, ["file"])
    assert [stop["head"] for stop in stops if "head" in stop] == [(1, 1)] * 3  # found by what it does, not by its name
    assert "Layer 1 head 1 is an induction head" in stops[2]["text"]
    for text in map(said, (stops, tour_of(copycat, ["live"]), tour_of(gpt, ["file"]), tour_of(gpt, ["live", "runs"]))):
        assert not re.search(r"[][{}]|  | [.,;:]", text), text
    assert "MLP" not in said(stops[:-1]) and "press Run" not in said(stops) and "fathom serve" in said(stops)
    assert "MLP" in said(tour_of(gpt, ["file"])) and "induction" not in said(tour_of(gpt, ["file"]))
    assert "press Run" in said(tour_of(gpt, ["live"])) and "Start a run" in said(tour_of(gpt, ["live", "runs"]))


def test_a_bigram_has_a_tour_too() -> None:
    assert not any("head" in stop for stop in tour_of(first_pass(open_subject("demo:bigram"), COPIED), ["file"]))


def test_a_guess_is_answered_by_the_numbers() -> None:
    run = first_pass(open_subject("demo:copycat"), COPIED)
    found = {}
    for id in PANELS:
        panel, _ = filled(id, run)
        said = guess(id, panel, run)
        if panel.absent is None:
            assert said is not None and -1 <= said["choice"] < len(said["choices"]) and said["says"].endswith(".")
            assert not re.search("nan|inf|None", said["says"]), said
            found[id] = said
    p = run.logits[-1].softmax(-1)
    assert f"{p.max().item():.1%}" in found["next-token"]["says"]
    assert found["next-token"]["choice"] == (0 if p.max() < 0.5 else 1 if p.max() <= 0.9 else 2)
    pattern = run.seen("blocks.0.attn.pattern")["blocks.0.attn.pattern"][0, 0, -1]
    assert found["microscope"]["says"].startswith(f"Token {int(pattern.argmax())},")
    assert math.isclose(float(found["cost"]["says"].split()[0]), filled_times(run), abs_tol=0.06)


@pytest.mark.parametrize(("p", "choice"), [(0.3, 0), (0.7, 1), (0.95, 2)])
def test_how_sure_is_one_of_three(p: float, choice: int) -> None:
    series = {"p": Series(torch.tensor([p]), "computed", "softmax", ("rank",), "p[{0}]")}
    said = guess("next-token", Panel(series, facts={"tokens": [{"text": " a"}]}), None)  # type: ignore[arg-type]
    assert said is not None and said["choice"] == choice and said["says"] == f"·a has {p:.1%}."


def filled_times(run: object) -> float:
    panel, _ = filled("cost", run)  # type: ignore[arg-type]
    row = panel.series["memory"].values[panel.facts["uses"].index("full")]
    return float(row.sum() / row[panel.facts["kinds"].index("weights")])


def test_a_bigram_has_nothing_to_guess_about_attention() -> None:
    run = first_pass(open_subject("demo:bigram"), "a function")
    assert guess("heads", filled("heads", run)[0], run) is None


@pytest.mark.parametrize(
    ("losses", "rank"),
    [
        ([4, 2.5, 2.05, 2.02, 2], 2),
        ([6, 9, 2, 5, 2], 8),  # what comes back later does not count
        ([3, 3, 3, 3, 3], 0),
        ([2, 2.95, 3, 3, 3], 1),  # a loss that rises has a way too
    ],
)
def test_a_rank_is_enough_from_which_on_little_is_missing(losses: list[float], rank: int) -> None:
    assert enough(torch.tensor([0, 1, 2, 4, 8]), torch.tensor(losses)) == rank


def test_a_token_as_it_is_seen() -> None:
    assert [word(text) for text in (" a", "\n", "", "\x00")] == ["·a", "⏎", "∅", "\\x00"]
