"""Every panel on every demo model: drawn or explained without a complaint of the browser, its chips green, and *Copy as
Python* of its first number, run as a program of its own, prints that number."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fathom.glass.subject import open_subject
from tests.page.conftest import Served, Tab

PROMPT = "a function that returns"
QUICK = [("adapter", None), ("llama-gqa", "int4")]
SLOW = [(name, None) for name in ("bigram", "copycat", "one-head", "gpt-tiny", "llama-mha", "llama-gqa", "llama-mqa")]
SLOW += [("full-finetune", None), ("llama-gqa", "int8"), ("llama-gqa", "nf4")]
MODELS = [*QUICK, *(pytest.param(*model, marks=pytest.mark.slow) for model in SLOW)]
ABSENT = {"bigram": ["Microscope", "All heads", "Positions", "Grouped queries", "Break it", "Packing"]}
NUMBER = "main [data-kind][data-value]"


def printed(program: str) -> float:
    """What the program prints, run by itself."""
    with contextlib.redirect_stdout(io.StringIO()) as out, torch.no_grad():
        exec(program, {})
    return float(out.getvalue())


def every_panel(tab: Tab, address: str) -> dict[str, str]:
    """Walks through the panels; of each, `absent`, `no number` or the program of its first number, which is checked."""
    page, found = tab.open(address), {}
    panels = page.get_by_role("navigation", name="Panels")
    for name in page.locator("nav.panels .place-panels button").all_inner_texts():
        page.keyboard.press("Escape")
        panels.get_by_role("button", name=name, exact=True).click()
        page.wait_for_selector(f"main h1:text-is('{name}')")
        tab.drawn()
        assert not page.query_selector("main [role=alert], main .message"), f"{name}: {page.inner_text('main')}"
        if page.query_selector("main [data-absent]"):
            found[name] = "absent"
            continue
        assert not page.query_selector(".chip[data-ok=false]"), f"{name}: {page.inner_text('.chip[data-ok=false]')}"
        found[name] = "no number"
        if page.query_selector(NUMBER):
            found[name] = check_number(page, name)
    return found


def check_number(page: Any, name: str) -> str:
    """The program of the first number in the panel, which prints that number."""
    first = page.locator(NUMBER).first
    shown = float(first.get_attribute("data-value"))
    first.click()
    page.wait_for_selector(".number-line[data-pinned=true]")
    assert page.get_attribute(".number-line", "data-kind") == first.get_attribute("data-kind")
    page.get_by_role("button", name="Copy as Python").click()
    page.wait_for_selector(".copy:text('Copied')")
    program = page.evaluate("navigator.clipboard.readText()")
    assert printed(program) == pytest.approx(shown, rel=1e-4, abs=1e-6), f"{name}: {program}"
    return str(program)


@pytest.mark.parametrize(("name", "quantize"), MODELS)
def test_every_panel_of_a_demo(tab: Tab, served: Callable[..., Served], name: str, quantize: str | None) -> None:
    subject = open_subject(f"demo:{name}", quantize=quantize)
    found = every_panel(tab, served({subject.name: subject}, PROMPT).address)
    assert len(found) == 13
    assert sorted(panel for panel, what in found.items() if what == "absent") == sorted(ABSENT.get(name, []))
    drawn = ["Positions"] if subject.config.position == "learned" and name not in ABSENT else []  # a map and a curve
    assert [panel for panel, what in found.items() if what == "no number"] == drawn


@pytest.mark.slow
def test_every_panel_of_stories(tab: Tab, served: Callable[..., Served], shared_data: Path) -> None:
    subject = open_subject(shared_data / "stories260K" / "stories260K.bin")
    found = every_panel(tab, served({subject.name: subject}, "Once upon a time, there was a little girl.").address)
    assert len(found) == 13 and "absent" not in found.values()
