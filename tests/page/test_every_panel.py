"""Every panel on every kind of model: drawn or explained, nothing on the console, no sideways scrolling, nobody kept
out, in light and dark; and each number in its place says what it is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from fathom.glass.document import document
from fathom.glass.panel import Panel
from fathom.glass.passes import Pass
from fathom.glass.subject import Subject
from tests.architectures import ARCHITECTURES, ids_for, model_of
from tests.page.conftest import Tab

KINDS = ["bigram", "attention alone", "gpt", "llama", "multi-query"]
RECORDED = ("wall clock", "validation loss of the first seed")  # what is measured and stands in a panel's facts
SERIOUS = "async () => (await axe.run()).violations.filter((one) => ['serious', 'critical'].includes(one.impact))"

# The width of the page, once what is drawn to the width of its place has been drawn again; at most 60 frames.
SETTLED = """async (width) => {
  const wide = () => document.documentElement.scrollWidth;
  for (let frame = 0; frame < 60 && wide() > width; frame++) await new Promise(requestAnimationFrame);
  return wide();
}"""


@pytest.fixture(params=KINDS)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Mapping[str, Panel]]:
    """An exported file of a small random model, and the panels in it."""
    config = ARCHITECTURES[request.param]
    torch.manual_seed(0)
    run = Pass(Subject(request.param, model_of(config).eval(), None), ids_for(config, 1, 12))
    path = tmp_path / "look.html"
    made = document(run, prompt="1 2 3")
    path.write_text(made.html, encoding="utf-8")
    return path, made.panels


def check_kinds(page: Any, data: Mapping[str, Panel]) -> None:
    """What is drawn says `measured` or `computed` as its series does; what the page itself works out is computed."""
    panel = page.get_attribute("main", "data-panel")
    shown = {
        s.source: s.kind for key, one in data.items() if key.startswith(f"A/{panel}?") for s in one.series.values()
    }
    pairs = page.eval_on_selector_all(
        "main [data-kind][data-source]", "all => all.map(one => [one.dataset.source, one.dataset.kind])"
    )
    shown |= dict.fromkeys(RECORDED, "measured")
    wrong = {(source, kind) for source, kind in map(tuple, pairs) if kind != shown.get(source, "computed")}
    assert not wrong, f"{panel}: {wrong}"
    assert not pairs or any(source in shown for source, _ in pairs), panel


def test_every_panel(tab: Tab, file: tuple[Path, Mapping[str, Panel]], axe: str) -> None:
    path, data = file
    page = tab.open(path.as_uri())
    page.evaluate(axe)
    for name in page.locator("nav.panels .place-panels button").all_inner_texts():
        page.get_by_role("navigation", name="Panels").get_by_role("button", name=name, exact=True).click()
        page.wait_for_selector(f"main h1:text-is('{name}')")
        tab.drawn()
        assert not page.query_selector("main [role=alert]"), f"{name}: {page.inner_text('main')}"
        absent = page.query_selector("main [data-absent]")
        assert absent or page.query_selector("main .panel-body > *"), f"{name} draws nothing"
        assert not absent or len(page.inner_text("[data-absent]")) > 20
        kinds = page.eval_on_selector_all("main [data-kind]", "all => [...new Set(all.map(one => one.dataset.kind))]")
        assert set(kinds) <= {"measured", "computed"} and (absent or kinds), f"{name} does not say what its numbers are"
        check_kinds(page, data)
        for width in (390, 1280):
            page.set_viewport_size({"width": width, "height": 844})
            wide = page.evaluate(SETTLED, width)
            assert wide <= width, f"{name} is {wide} pixels wide at {width}"
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            found = page.evaluate(SERIOUS)
            assert not found, f"{name}, {theme}: {[(one['id'], one['nodes'][0]['html'][:200]) for one in found]}"
    assert not tab.elsewhere and not tab.complaints
