"""P7 to P9 in a browser: sliding leaves the score, bytes and texts are the cache's, wires lead where they should, and
each mistake that a learner can switch on turns its chip red."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fathom.glass.document import document
from fathom.glass.passes import Pass
from fathom.glass.subject import Subject
from fathom.inspect.cache_view import cache_for
from fathom.model.config import ModelConfig
from tests.architectures import LLAMA, ids_for, model_of
from tests.page.conftest import Served, Tab

LONG = replace(LLAMA, context_length=400)
RED = ".panel-tools [data-ok=false]"


def opened(tab: Tab, folder: Path, panel: str, config: ModelConfig = LONG) -> tuple[Pass, str]:
    """A file of one panel of a random model, shown; the pass, and the file's address."""
    torch.manual_seed(0)
    run = Pass(Subject("small", model_of(config).eval(), None), ids_for(config, 1, 12))
    path = folder / "look.html"
    path.write_text(document(run, [panel]).html, encoding="utf-8")
    tab.open(f"{path.as_uri()}#panel={panel}")
    return run, path.as_uri()


def value(tab: Tab, selector: str) -> float:
    return float(tab.page.get_attribute(selector, "data-value"))


def test_sliding_both_leaves_the_score(tab: Tab, tmp_path: Path) -> None:
    opened(tab, tmp_path, "positions")
    scores = []
    for at in (0, 4, 9, 20):
        tab.page.get_by_label("slide both").fill(str(at))
        scores.append(value(tab, ".positions .lead .cell"))
        assert f"key at {at}" in tab.page.inner_text(".positions .lead")
    assert max(scores) - min(scores) <= 1e-4
    tab.page.get_by_label("key n").fill("5")
    assert abs(value(tab, ".positions .lead .cell") - scores[0]) > 1e-4  # another distance is another score
    tab.page.reload()
    tab.drawn()
    assert "key at 5" in tab.page.inner_text(".positions .lead")  # the address has both places


def test_a_dial_is_dragged(tab: Tab, tmp_path: Path) -> None:
    opened(tab, tmp_path, "positions")
    before = tab.page.get_by_label("query m").input_value()
    dial = tab.page.locator(".dial svg").first.bounding_box()
    assert dial is not None
    x, y, r = dial["x"] + dial["width"] / 2, dial["y"] + dial["height"] / 2, dial["width"] / 3
    tab.page.mouse.move(x + r, y)
    tab.page.mouse.down()
    tab.page.mouse.move(x, y + r, steps=6)  # a quarter turn back: 1.57 radians at one a position
    tab.page.mouse.up()
    assert int(before) - int(tab.page.get_by_label("query m").input_value()) in (1, 2)


def test_angles_of_the_other_layout_are_red(tab: Tab, tmp_path: Path) -> None:
    opened(tab, tmp_path, "positions")
    assert not tab.page.query_selector(RED)
    tab.page.get_by_role("switch", name="angles of the other layout").click()
    tab.page.wait_for_selector(RED)
    assert "C8" in tab.page.inner_text(RED)
    before = value(tab, ".positions .lead .cell")
    tab.page.get_by_label("slide both").fill("7")
    assert abs(value(tab, ".positions .lead .cell") - before) > 1e-4
    tab.page.go_back()
    tab.page.wait_for_selector(RED, state="detached")


def test_text_and_bytes_are_the_caches(tab: Tab, tmp_path: Path) -> None:
    run, _ = opened(tab, tmp_path, "generation")
    texts = [line.get_attribute("data-text") for line in tab.page.query_selector_all(".grown-text[data-text]")]
    assert len(texts) == 2 and texts[0] == texts[1] and texts[0]
    shown = [cell.inner_text().replace(",", "") for cell in tab.page.query_selector_all(".kept .cell")]
    assert int(shown[1]) == cache_for(run.model, run.t + 16).nbytes
    assert int(shown[0]) == cache_for(run.model, run.t + 15).nbytes  # the last token is not read any more
    made = [int(one.get_attribute("data-made")) for one in tab.page.query_selector_all(".columns-figure .column")]
    assert made == [run.t] + [1] * 15 + [run.t + n for n in range(16)]


@pytest.mark.parametrize("name", ["positions off by one", "no mask in the prompt", "cached before rotation"])
def test_each_mistake_of_a_cache_is_red(tab: Tab, tmp_path: Path, name: str) -> None:
    opened(tab, tmp_path, "generation")
    assert not tab.page.query_selector(RED)
    tab.page.get_by_role("radio", name=name).click()
    tab.page.wait_for_selector(RED)
    assert "C9" in tab.page.inner_text(RED)


def test_wires_and_fan_in(tab: Tab, tmp_path: Path) -> None:
    opened(tab, tmp_path, "groups")
    page = tab.page
    wires = [one.get_attribute("data-group") for one in page.query_selector_all(".wiring .wire")]
    assert wires == ["0", "0", "0", "1", "1", "1"]
    assert [one.get_attribute("data-fan-in") for one in page.query_selector_all(".kv-head")] == ["3", "3"]
    sizes = [float(one.get_attribute("data-value")) for one in page.query_selector_all(".groups .bars .track")]
    assert [size / sizes[-1] for size in sizes] == [g / 6 for g in (1, 2, 3, 6)]
    kinds = page.eval_on_selector_all(".groups .bars .track", "all => all.map(one => one.dataset.kind)")
    assert kinds == ["computed"] * 4
    page.get_by_role("switch", name="repeat in the wrong order").click()
    page.wait_for_selector(RED)
    assert "C10" in page.inner_text(RED)


def test_a_live_text_stops_within_a_token(tab: Tab, served: Callable[..., Served]) -> None:
    torch.manual_seed(0)
    model, passes = model_of(LONG).eval(), []
    model.final_norm.register_forward_hook(lambda *_: passes.append(time.sleep(0.02)))  # there is time to stop it
    server = served({"small": Subject("small", model, None)}, "5 17 3 9 20")
    tab.open(f"{server.address}#panel=generation")
    tab.page.get_by_role("button", name="Generate up to 256 tokens").click()
    tab.page.wait_for_selector("[data-live] .grown-token")
    tab.page.get_by_role("button", name="Stop").click()
    tab.page.get_by_role("button", name="Generate up to 256 tokens").wait_for()
    shown = len(tab.page.query_selector_all("[data-live] .grown-token"))
    for _ in range(3):  # what was asked of the model before is done when the next thing is
        server.desk.worker.submit(int).result()
    stopped = len(passes)
    for _ in range(3):
        server.desk.worker.submit(int).result()
    assert 0 < shown < 256 and len(passes) == stopped
