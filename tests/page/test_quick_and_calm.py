"""The page is quick on two cores, moves nothing for who asks for less motion, and what is drawn as bars and buttons in
the stream's panels is worked by keyboard alone."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import pytest

from fathom.glass import document as module
from fathom.glass.document import document
from fathom.glass.panels import PANELS
from fathom.glass.passes import Pass, first_pass
from fathom.glass.subject import Subject, open_subject
from fathom.serve import desk
from tests.architectures import LLAMA, ids_for, model_of
from tests.page.conftest import Served, Tab

MOVING = """all => all.filter((one) => {
  const { transitionDuration: t, animationName: a } = getComputedStyle(one);
  return t.split(', ').some((part) => parseFloat(part) > 0) || a !== 'none';
}).map((one) => one.className)"""


def test_less_motion_is_none(tab: Tab, served: Callable[..., Served]) -> None:
    page = tab.open(served({"small": Subject("small", model_of(LLAMA).eval(), None)}, "5 17 3 9").address)
    page.get_by_role("navigation", name="Panels").get_by_role("button", name="Microscope").click()
    page.wait_for_selector("[role=switch]")
    assert page.eval_on_selector_all("body *", MOVING)
    page.emulate_media(reduced_motion="reduce")
    assert page.eval_on_selector_all("body *", MOVING) == []


@pytest.mark.parametrize(("panel", "changes"), [("attribution", "layer="), ("ablation", "ablation.cut=")])
def test_the_stream_by_keyboard(tab: Tab, served: Callable[..., Served], panel: str, changes: str) -> None:
    """Tab reaches what the panel offers, Enter chooses it, and the address has it."""
    server = served({"small": Subject("small", model_of(LLAMA).eval(), None)}, "5 17 3 9")
    page = tab.open(f"{server.address}#panel={panel}")
    page.focus(".token >> nth=0")
    for _ in range(150):
        page.keyboard.press("Tab")
        if page.evaluate("!!document.activeElement.closest('main button, main canvas')"):
            page.keyboard.press("Enter")
            if changes in page.url:
                break
    assert changes in page.url
    tab.drawn()


SWITCH = """async ([id, title]) => {
  const buttons = [...document.querySelectorAll('nav.panels button')];
  const frame = () => new Promise((go) => requestAnimationFrame(go));
  const began = performance.now();
  buttons.find((one) => one.textContent === title).click();
  const drawn = `main[data-panel="${id}"][aria-busy=false] :is(.panel-body > *, [data-absent])`;
  while (!document.querySelector(drawn)) await frame();
  await frame();
  await new Promise((go) => setTimeout(go));
  return performance.now() - began;
}"""


def sixty_four(subject: Subject) -> str:
    """A text of so many tokens."""
    text = "Return the number of items in the sequence; if the argument is not an integer, ValueError is raised. " * 2
    while first_pass(subject, text).t > 64:
        text = text[:-1]
    return text


def run(page: Any, tab: Tab, text: str, tokens: int) -> float:
    """Seconds from Run until the numbers of the panel in sight are drawn."""
    page.fill("textarea", text)
    began = time.perf_counter()
    page.click(".run")
    page.wait_for_selector(f".token >> nth={tokens - 1}")
    tab.drawn()
    page.wait_for_selector("main .panel-body")
    return time.perf_counter() - began


def switches(page: Any) -> dict[str, float]:
    """Milliseconds from a click on each panel until its numbers are drawn."""
    return {id: page.evaluate(SWITCH, [id, one.title]) for id, one in PANELS.items()}


def filled_ahead(server: Served) -> None:
    """Waits until the server has filled what it fills while nobody asks."""
    for _ in range(1200):
        if server.desk.ahead is not None and server.desk.ahead.done():
            return
        time.sleep(0.1)
    raise AssertionError("the panels were not filled ahead")


@pytest.mark.slow
def test_the_page_is_quick(tab: Tab, served: Callable[..., Served]) -> None:
    """4 layers and 64 tokens, on two cores with nothing beside: numbers within a second of Run, and within 300 ms of a
    click on any panel, the first time (once the page was read for a moment) and again; medians of five."""
    subject = open_subject("demo:llama-gqa")
    text = sixty_four(subject)
    server = served({"gqa": subject}, "a function", ahead=True)
    page = tab.open(server.address)
    seconds, first, again = [], [], []
    for attempt in range(5):
        seconds.append(run(page, tab, text[attempt:], 60))
        filled_ahead(server)
        first.append(switches(page))
        again.append(switches(page))
        page.evaluate(SWITCH, ["next-token", "Next token"])
    assert median(seconds) < 1, seconds
    for name, found in (("first", first), ("again", again)):
        times = {id: round(median(one[id] for one in found)) for id in PANELS}
        print(name, times)
        assert max(times.values()) < 300, (name, times)


def test_panels_are_there_when_they_are_asked_for(
    tab: Tab, served: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a moment a click on a panel computes nothing: the best of three is quick beside other programs too."""
    monkeypatch.setattr(desk, "AHEAD", math.inf)
    subject = open_subject("demo:llama-gqa")
    server = served({"gqa": subject}, sixty_four(subject), ahead=True)
    page = tab.open(server.address)
    filled_ahead(server)
    assert {name for _, _, name in server.desk.made} == {*PANELS} - {"runs"}
    found = [switches(page) for _ in range(3)]
    assert max(min(one[id] for one in found) for id in PANELS) < 600, found


@pytest.mark.slow
def test_a_file_of_every_panel_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """6 layers of 6 heads and 64 tokens: at most 6 MB."""
    monkeypatch.setattr(module, "bundle", lambda: ("", ""))
    config = replace(LLAMA, n_layer=6, n_head=6, n_kv_head=6, d_model=96, head_dim=16, d_ff=256, context_length=128)
    run = Pass(Subject("six", model_of(config).eval(), None), ids_for(config, 1, 64))
    assert len(document(run).html) + 260_000 <= 6_000_000  # the script and the style
