"""The frame around the panels in a browser: offline, in the address, by keyboard, after a restart, hostile text."""

import contextlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fathom.glass.document import document
from fathom.glass.passes import Pass
from fathom.glass.subject import Subject, open_subject
from fathom.tokenizer.protocol import Special, TokenArray, Tokenizer
from tests.architectures import ARCHITECTURES, model_of
from tests.page.conftest import Served, Tab

HOSTILE = ["<img src=x onerror=alert(1)>", "</script><b>", "\u202eevil", "\u0000", "\u200b", "&lt;", " the", "\n"]


class Words(Tokenizer):
    """Tokens of any text; a prompt of n characters is the first n of them."""

    kind = "words"
    special = Special(names={"<s>\"'>": 36})
    vocab_size = 37

    def encode_array(self, text: str) -> TokenArray:
        return np.arange(len(text), dtype=np.uint8)

    def cut(self, text: str) -> int:
        return len(text)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return "".join(HOSTILE[id % len(HOSTILE)] for id in ids).encode()

    def to_json(self) -> dict[str, Any]:
        return {}


def subject(name: str, architecture: str = "llama", seed: int = 0) -> Subject:
    torch.manual_seed(seed)
    return Subject(name, model_of(ARCHITECTURES[architecture]).eval(), Words())


def two() -> dict[str, Subject]:
    return {"one": subject("one"), "other": subject("other", seed=1)}


def prompt_of(tokens: int) -> str:
    return "x" * tokens


def test_a_file_opens_without_asking_for_anything_and_hostile_text_is_text(tab: Tab, tmp_path: Path) -> None:
    run = Pass(subject("<b>name</b>"), torch.tensor([[*range(8), 36]]))
    file = tmp_path / "look <1>.html"
    file.write_text(document(run, prompt=HOSTILE[0]).html, encoding="utf-8")
    page = tab.open(file.as_uri())
    assert tab.asked == [file.as_uri()]
    assert page.inner_text(".token >> nth=0") == "<img·src=x·onerror=alert(1)>"
    assert page.inner_text(".token >> nth=2") == "\\u202eevil"
    assert page.inner_text(".token >> nth=8") == "<s>\"'>"
    assert not page.query_selector_all("img, b:text('name')")
    page.click(".token >> nth=3")
    tab.page.wait_for_selector("main .message, main .bars")
    assert "fathom serve" in page.inner_text("main") or page.query_selector(".bars")


def test_what_is_shown_is_in_the_address_and_a_step_back_undoes_it(tab: Tab, served: Callable[..., Served]) -> None:
    server = served(two(), prompt_of(6))
    page = tab.open(server.address)
    page.click(".token >> nth=2")
    page.select_option(".model-choice select >> nth=1", "other")
    page.get_by_role("radio", name="B − A").click()
    tab.drawn()
    page.wait_for_url("**show=B-A**")
    address, shown = page.url, page.inner_text("main")
    assert "query=2" in address and "beside=other" in address

    page.goto("about:blank")
    page = tab.open(address)
    page.wait_for_selector(".token[aria-pressed=true]")
    assert page.url == address and page.inner_text("main") == shown
    page.get_by_role("radio", name="A", exact=True).click()
    assert "show" not in page.url
    page.go_back()
    page.wait_for_url("**show=B-A**")
    assert page.get_attribute("[role=radio]:text('B − A')", "aria-checked") == "true"


def test_typing_is_not_in_the_address_until_it_is_run(tab: Tab, served: Callable[..., Served]) -> None:
    page = tab.open(served(two(), prompt_of(6)).address)
    page.click(".token >> nth=5")
    steps = page.evaluate("history.length")
    page.fill("textarea", prompt_of(3))
    assert page.evaluate("history.length") == steps
    page.click(".run")
    page.wait_for_selector(".token >> nth=3", state="detached")
    tab.drawn()
    assert "query" not in page.url  # there is no token 5 any more
    assert page.query_selector("main .bars")


def test_a_server_that_was_started_again_is_noticed_and_the_prompt_is_run_again(
    tab: Tab, served: Callable[..., Served]
) -> None:
    server = served(two(), prompt_of(6))
    page = tab.open(server.address)
    server.stop()
    page.click(".token >> nth=2")
    page.wait_for_selector("main .message:text('does not answer')")
    server.start()  # with another token, and without any pass
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector(".messages :text('no longer had this pass')")
    page.wait_for_selector(".run:enabled")
    tab.drawn()
    assert not page.query_selector(".message.failed") and len(server.desk.passes) == 1
    server.desk.passes.clear()
    page.click(".token >> nth=3")
    page.wait_for_selector(".token[aria-pressed=true] >> nth=0")
    tab.drawn()
    page.wait_for_selector(".run:enabled")
    assert "query=3" in page.url and len(server.desk.passes) == 1


def test_mistakes_are_one_line(tab: Tab, served: Callable[..., Served]) -> None:
    page = tab.open(served(two(), prompt_of(6)).address)
    for text, said in (("", "write a text first"), (prompt_of(24), "24 tokens, more than the 23")):
        page.fill("textarea", text)
        page.click(".run")
        page.wait_for_selector(f".messages :text('{said}')")
    assert page.query_selector("main .bars")  # what was shown stays


def test_what_fails_is_not_asked_again_by_itself(tab: Tab, served: Callable[..., Served]) -> None:
    server = served(two(), prompt_of(6))
    page = tab.open(server.address + "#next-token.top_k=-5")
    page.wait_for_selector("main .message")
    page.click(".token >> nth=1")
    page.wait_for_selector(".token[aria-pressed=true]")
    tab.drawn()
    assert len([url for url in tab.asked if "/api/panel/" in url]) <= 2


def test_everything_is_reached_by_keyboard(tab: Tab, served: Callable[..., Served]) -> None:
    page = tab.open(served(two(), prompt_of(6)).address)
    reached: set[str] = set()
    for _ in range(120):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.className || document.activeElement.tagName"))
    assert {"run", "token", "chip", "track", "write", "SELECT", "TEXTAREA", "SUMMARY"} <= reached
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    assert "query=4" in page.url and "layer=0" in page.url
    page.keyboard.press("Escape")
    assert "query" not in page.url and "layer" not in page.url


def test_checks_of_one_identity_are_one_mark_and_what_fails_says_so(tab: Tab, served: Callable[..., Served]) -> None:
    page = tab.open(served(two(), prompt_of(6)).address + "#panel=microscope")
    marks = page.eval_on_selector_all(".chip", "all => all.map((one) => one.dataset.check)")
    assert len(set(marks)) == len(marks) and {"C1", "C2", "C3"} <= set(marks)
    title = page.get_attribute(".chip[data-check=C2]", "title")
    assert len(title.splitlines()) == 4 and "pattern v = z: holds" in title
    page.get_by_role("switch", name="no mask").click()
    page.wait_for_selector(".chip[data-ok=false]:text('later keys get nothing')")
    assert page.locator(".chip[data-check=C1]").count() == 2  # rows still sum to 1


def test_a_long_word_wraps_and_a_formula_keeps_its_height(tab: Tab, served: Callable[..., Served]) -> None:
    page = tab.open(served(two(), prompt_of(6)).address + "#panel=microscope")
    page.fill("textarea", "x" * 300)
    wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1]
    page.set_viewport_size({"width": 390, "height": 844})
    page.get_by_role("button", name="Explain", exact=True).click()
    high = page.eval_on_selector(
        ".formula", "one => [one.clientHeight, one.firstElementChild.getBoundingClientRect().height]"
    )
    assert high[0] >= high[1] > 20


def test_without_a_folder_of_runs_nothing_complains(tab: Tab, served: Callable[..., Served]) -> None:
    page = tab.open(served(two(), prompt_of(6)).address + "#panel=runs")
    page.wait_for_selector("main :text('No folder of runs is open')")
    page.wait_for_timeout(2500)  # longer than from one list of runs to the next
    assert tab.complaints == [] and len([url for url in tab.asked if url.endswith("/api/runs")]) == 1


def test_a_number_says_what_it_is_and_its_python_prints_it(tab: Tab, served: Callable[..., Served]) -> None:
    server = served(two(), prompt_of(6))
    page = tab.open(server.address)
    page.hover(".track >> nth=2")
    line = page.inner_text(".number-name")
    page.click(".track >> nth=2")  # pinned: other numbers on the way do not take its place
    page.hover(".track >> nth=6")
    assert page.inner_text(".number-name") == line
    page.get_by_role("button", name="Copy as Python").click()
    page.wait_for_selector(".copy:text('Copied')")
    program = page.evaluate("navigator.clipboard.readText()")
    shown = float(page.get_attribute(".track >> nth=2", "data-value"))
    assert page.get_attribute(".number-line", "data-kind") == page.get_attribute(".track >> nth=2", "data-kind")
    one = server.shelf.opened["one"]
    program = program.replace(one.loading, "")  # a model in memory has no path to be loaded from
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(program, {"model": one.model, "tokenizer": one.tokenizer})
    assert float(out.getvalue()) == pytest.approx(shown, abs=1e-6)


def test_beside_is_the_difference_and_tokens_are_coloured(tab: Tab, served: Callable[..., Served]) -> None:
    page = tab.open(served(two(), prompt_of(6)).address + "#beside=other")
    page.wait_for_selector("[role=radio]")

    def numbers() -> list[float]:
        tab.drawn()
        return [float(one.get_attribute("data-value")) for one in page.query_selector_all(".track")][:8]

    found = {}
    for name in ("A", "B", "B − A"):
        page.get_by_role("radio", name=name, exact=True).click()
        page.wait_for_selector(f"[role=radio][aria-checked=true]:text-is('{name}')")
        found[name] = numbers()
    assert found["B − A"] == pytest.approx([b - a for a, b in zip(found["A"], found["B"])], abs=1e-6)
    coloured = page.query_selector_all(".token[style*=background]")
    assert len(coloured) == 5  # nothing predicts the first


def test_every_token_of_both_is_compared_and_the_weights_that_changed_are_shown(
    tab: Tab, served: Callable[..., Served]
) -> None:
    page = tab.open(served(two(), prompt_of(6)).address + "#panel=attribution&beside=other&show=B-A")
    page.wait_for_selector("[aria-label=Token] option >> nth=1", state="attached")
    for value in page.eval_on_selector_all("[aria-label=Token] option", "all => all.map((one) => one.value)"):
        page.select_option("[aria-label=Token]", value)
        page.wait_for_selector(".attribution .lead:has-text('B − A')")
    page.get_by_role("button", name="Which weights changed?").click()
    page.wait_for_selector(
        "main[data-panel=lora][aria-busy=false] section:has-text('Where the weights changed') canvas"
    )


# what each stop speaks of: it must lie above the tour's card
IN_SIGHT = {
    1: [".tokens", "main h1"],
    2: ["[type=range]", ".bars"],
    3: [".heads-columns", "[aria-label='Sort by']"],
    4: [".stepper", ".stage-drawings"],
    5: [".chips", ".controls [role=switch]"],
    6: [".words"],
    7: [".watched .row"],
    8: [".ablation .controls", ".sweep"],
    9: [".estimates"],
    10: [".prompt textarea", ".run"],
}
NEAR_THE_TOP = """part => {
  const [it, card] = [part, '.tour'].map((one) => document.querySelector(one)?.getBoundingClientRect());
  return it && it.top > -2 && it.top + Math.min(it.height, 160) <= card.top;
}"""


def test_the_tour_opens_a_head_that_teaches_and_covers_nothing_of_it(tab: Tab, served: Callable[..., Served]) -> None:
    page = tab.open(served({"copycat": open_subject("demo:copycat")}, "Xk7 Qp2 vR Xk7 Qp2 vR").address)
    page.set_viewport_size({"width": 390, "height": 844})
    box = page.locator(".tour-button").bounding_box()
    assert box and box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["y"] < 844  # in sight without scrolling
    with page.expect_response("**/api/tour*"):
        page.get_by_role("button", name="Tour").click()
    page.locator(".token").nth(2).click()  # as the first stop asks
    assert "query=2" in page.url
    said = []
    for n in range(1, 11):
        page.wait_for_selector(f".tour-place:text-is('{n} of 10')")
        tab.drawn()
        assert n in (1, 5) or "query=" not in page.url
        assert n != 5 or "query=10" in page.url  # of 20 tokens
        for part in IN_SIGHT[n]:
            page.wait_for_function(NEAR_THE_TOP, arg=part)
        if n in (3, 4):
            assert "layer 1 head 1" in page.inner_text(".tour").lower() and "layer=1&head=1" in page.url
        said.append(page.inner_text(".tour"))
        if n < 10:
            page.get_by_role("button", name="Next", exact=True).click()
    assert "induction" in " ".join(said) and "MLP" not in " ".join(said[:-1])  # the last speaks of larger models
