"""The panels of attention and the next token in a browser: every step by keyboard, numbers that are those of Python,
all heads of a large model at once, and mistakes that turn a check red."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fathom.glass.document import document
from fathom.glass.passes import Pass, first_pass
from fathom.glass.subject import Subject, open_subject
from fathom.model.config import ModelConfig
from fathom.tokenizer.characters import ByteTokenizer
from tests.architectures import LLAMA, TINY, ids_for, model_of
from tests.page.conftest import Served, Tab

VALUES = "all => all.map((one) => one.dataset.value)"
COPIED = "abcdefgh abcdefgh abcdefgh"


def written(run: Pass, folder: Path, *panels: str) -> str:
    """The address of a file that holds these panels."""
    path = folder / "look.html"
    path.write_text(document(run, panels, prompt="1 2 3").html, encoding="utf-8")
    return path.as_uri()


def small(config: ModelConfig = LLAMA, t: int = 12) -> Pass:
    torch.manual_seed(0)
    return Pass(Subject("small", model_of(config).eval(), None), ids_for(config, 1, t))


def test_the_steps_of_a_head_by_keyboard(tab: Tab, tmp_path: Path) -> None:
    page = tab.open(written(small(), tmp_path, "microscope") + "#panel=microscope")
    page.focus("[role=tab][aria-selected=true]")
    seen, sums = [], 0
    for _ in range(11):
        seen.append(page.get_attribute("[role=tab][aria-selected=true]", "data-stage"))
        assert page.query_selector(".stage-drawing [data-kind]"), seen[-1]
        if terms := page.query_selector(".terms[data-sum]"):
            total, value = (float(terms.get_attribute(name)) for name in ("data-sum", "data-value"))
            assert total == pytest.approx(value, abs=1e-4), seen[-1]
            assert terms.query_selector_all("li button"), "factors are numbers of their own"
            sums += 1
        else:
            assert page.query_selector(".terms button") or seen[-1] == "x"
        page.keyboard.press("ArrowRight")
    assert seen == ["x", "norm", "qkv", "rotate", "dot", "scale", "mask", "softmax", "z", "out", "stream"]
    assert sums == 5 and page.get_attribute("[role=tab][aria-selected=true]", "data-stage") == "x"
    assert "microscope.stage=x" in page.url


def test_a_step_left_out_turns_its_check_red(tab: Tab, tmp_path: Path) -> None:
    page = tab.open(written(small(), tmp_path, "microscope") + "#panel=microscope")
    assert page.locator(".chip[data-ok=false]").count() == 0
    for switch, says in (("no mask", "C1"), ("no √c", "C2"), ("rotate v too", "C2")):
        page.get_by_role("switch", name=switch).click()
        page.wait_for_selector(".chip[data-ok=false]")
        assert says in page.inner_text(".chip[data-ok=false]") and page.query_selector("[data-wrong] code")
        page.get_by_role("switch", name=switch).click()
        page.wait_for_selector(".chip[data-ok=false]", state="detached")


def test_all_heads_of_a_large_model_at_once(tab: Tab, tmp_path: Path) -> None:
    config = replace(TINY, n_layer=32, n_head=32, d_model=64, head_dim=2, context_length=40)
    page = tab.open(written(small(config, 32), tmp_path, "heads") + "#panel=heads")
    canvas = page.wait_for_selector("canvas[data-heads='1024']")
    assert float(canvas.get_attribute("data-ms")) < 300
    page.get_by_role("radio", name="sink").click()
    assert float(page.get_attribute(".head-sheet canvas", "data-ms")) < 300


def test_a_cell_of_a_head_in_full_is_the_number_in_python(tab: Tab, tmp_path: Path) -> None:
    run = small()
    page = tab.open(written(run, tmp_path, "heads", "microscope") + "#panel=heads")
    page.focus(".head-sheet canvas")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector(".head-zoom h2:has-text('Layer 1, head 1')")
    page.wait_for_selector(".head-zoom[aria-busy=false] canvas")
    assert "layer=1" in page.url and "head=1" in page.url
    page.focus(".head-zoom canvas")
    for key in ["ArrowDown"] * 8 + ["ArrowRight"] * 5 + ["Enter"]:
        page.keyboard.press(key)
    line = page.inner_text(".number-line")
    assert "measured" in line
    with torch.no_grad():
        value = run.seen("blocks.1.attn.pattern")["blocks.1.attn.pattern"][0, 1, 7, 5].item()
    shown = re.search(r"blocks.1.attn.pattern\[0, 1, 7, 5\] = (\S+)", line)
    assert shown and float(shown[1]) == pytest.approx(value, rel=1e-2, abs=1e-4)
    page.get_by_role("button", name="Look through the microscope").click()
    page.wait_for_selector("main[data-panel=microscope][aria-busy=false]")


def test_sorting_hiding_and_weighing_are_in_the_address(tab: Tab, tmp_path: Path) -> None:
    page = tab.open(written(small(), tmp_path, "heads") + "#panel=heads")
    page.get_by_role("radio", name="out-norm").click()
    for switch in ("hide first token", "log colour", "weight by"):
        page.get_by_role("switch", name=switch).click()
    for word in ("heads.sort=out_norm", "heads.hide=true", "heads.log=true", "heads.weigh=true"):
        assert word in page.url
    assert "The brightest colour is" in page.inner_text("main")
    page.get_by_role("radio", name="random tokens, repeated").click()
    tab.drawn()
    assert not page.query_selector("main > [role=alert]")


def test_the_induction_head_of_copycat_is_found(tab: Tab, tmp_path: Path) -> None:
    run = first_pass(open_subject("demo:copycat"), COPIED)
    page = tab.open(written(run, tmp_path, "heads") + "#panel=heads&heads.sort=induction&heads.text=twice")
    page.wait_for_selector(".head-numbers")
    assert page.inner_text(".head-name").startswith("Layer 1, ")
    found = float(page.get_attribute(".head-numbers [data-sorted=true] .cell", "data-value"))
    assert found > 0.5


def live(served: Callable[..., Served]) -> Served:
    torch.manual_seed(0)
    config = replace(LLAMA, vocab_size=256, context_length=60)
    return served({"bytes": Subject("bytes", model_of(config, std=0.05).eval(), ByteTokenizer())}, "Once upon")


def test_a_hundred_draws(tab: Tab, served: Callable[..., Served]) -> None:
    page = tab.open(live(served).address)
    page.get_by_role("button", name="Draw 100", exact=True).click()
    page.wait_for_selector("th:text('drawn, of 100')")
    counts = page.eval_on_selector_all(".bars tr td:nth-child(4) .track", VALUES)
    assert len(counts) == 51 and sum(map(float, counts)) == 100
    page.get_by_role("button", name="Draw 100 more").click()
    page.wait_for_selector("th:text('drawn, of 200')")
    page.get_by_role("button", name="Clear").click()
    page.wait_for_selector("th:text('drawn')", state="detached")


def test_a_token_is_appended_by_a_click(tab: Tab, served: Callable[..., Served]) -> None:
    page = tab.open(live(served).address)
    page.click(".token >> nth=3")  # the next token is that after this one
    tab.drawn()
    button = page.locator(".bars th button:has(code)").filter(has_text=r"").first
    text = button.inner_text()
    button.click()
    page.wait_for_selector(".token >> nth=4")
    page.wait_for_selector(".token >> nth=5", state="detached")
    assert page.inner_text(".token >> nth=4") == text
    assert page.input_value("textarea").startswith("Once") and len(page.input_value("textarea")) == 5


def test_top_k_changes_the_sampler_alone(tab: Tab, served: Callable[..., Served]) -> None:
    page = tab.open(live(served).address)

    def column(n: int) -> list[str]:
        return page.eval_on_selector_all(
            f".bars td:nth-child({n}) .track", "all => all.map((one) => one.dataset.value)"
        )

    before = column(2), column(3)
    page.locator(".slider:has-text('top-k') input").fill("3")
    page.wait_for_selector("main :text('keeps 3 of 256 tokens')")
    assert column(2) == before[0] and column(3) != before[1]
    assert sum(float(x) > 0 for x in column(3)) == 3


def test_a_slider_stays_where_it_was_put_until_its_data_comes(tab: Tab, served: Callable[..., Served]) -> None:
    page = tab.open(live(served).address)
    held: list[Any] = []
    page.route("**/api/panel/next-token*", lambda route: held.append(route))
    slider = page.locator(".slider:has-text('top-k') input")
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.wait_for_selector("main[aria-busy=true]")
    assert slider.input_value() == "3"
    page.unroute("**/api/panel/next-token*")
    held.pop(0).continue_()
    page.wait_for_selector("main :text('keeps 3 of 256 tokens')")
    assert slider.input_value() == "3" and not held, "of what waits, the last alone is asked for"
