"""P4 to P6 in a browser: a cell for each row and token, reached by keyboard; each mistake turns its chip red; a part
that is clicked is taken away, and a second prompt that is too short is one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fathom.glass.document import document
from fathom.glass.passes import Pass
from fathom.glass.subject import Subject
from tests.architectures import ARCHITECTURES, LLAMA, ids_for, model_of
from tests.page.conftest import Served, Tab

PROMPT = "5 9 3 8 1 2 30 7"


def subject(name: str = "llama") -> Subject:
    torch.manual_seed(0)
    return Subject(name, model_of(ARCHITECTURES[name]).eval(), None)


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., str]:
    """An exported file of a small random model and `t` tokens."""

    def made(name: str = "llama", t: int = 12) -> str:
        run, path = Pass(subject(name), ids_for(ARCHITECTURES[name], 1, t)), tmp_path / "look.html"
        path.write_text(document(run, ["lens", "attribution", "ablation"]).html, encoding="utf-8")
        return path.as_uri()

    return made


@pytest.fixture
def live(tab: Tab, served: Callable[..., Served]) -> Callable[[str], Any]:
    """The page of a running server, at a panel, with its prompt run."""
    server = served({"llama": subject()}, PROMPT)

    def opened(panel: str) -> Any:
        page = tab.page
        page.goto(f"{server.address}#panel={panel}")
        tab.drawn()
        return page

    return opened


def test_a_word_for_each_row_and_token(tab: Tab, file: Callable[..., str]) -> None:
    page = tab.open(file() + "#panel=lens")
    assert page.locator(".word").count() == (LLAMA.n_layer + 1) * 12
    said = page.locator(f".word[data-row='{LLAMA.n_layer}']").evaluate_all("all => all.map(one => +one.dataset.id)")
    model = subject().model
    torch.manual_seed(0)
    model_of(LLAMA)
    with torch.no_grad():
        assert said == model(ids_for(LLAMA, 1, 12))[0].argmax(-1).tolist()


def test_words_are_reached_by_keyboard(tab: Tab, file: Callable[..., str]) -> None:
    page = tab.open(file() + "#panel=lens")
    page.locator(".word[tabindex='0']").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.activeElement.dataset.column === '10'")
    page.keyboard.press("Enter")
    page.wait_for_function("location.hash.includes('query=10') && location.hash.includes('layer=1')")
    assert page.locator(".words thead [data-picked=true]").inner_text()


@pytest.mark.parametrize(
    "panel, mistake",
    [
        ("lens", "no final norm"),
        ("lens", "final norm twice"),
        ("attribution", "norm each part alone"),
    ],
)
def test_a_mistake_turns_its_chip_red(tab: Tab, file: Callable[..., str], panel: str, mistake: str) -> None:
    page = tab.open(f"{file()}#panel={panel}")
    assert not page.query_selector(".chips [data-ok=false]")
    page.get_by_role("switch", name=mistake).click()
    page.wait_for_selector(".chips [data-ok=false]")


def test_parts_of_a_logit_sum_to_it(tab: Tab, file: Callable[..., str]) -> None:
    page = tab.open(file() + "#panel=attribution")
    page.select_option("select[aria-label='Minus another token']", index=2)
    page.wait_for_function("location.hash.includes('attribution.b=')")
    logit, total = page.locator(".lead [data-value]").evaluate_all("all => all.map(one => +one.dataset.value)")
    assert abs(logit - total) < 1e-3
    bars = page.locator("table[aria-label='The largest contributions'] [data-value]")
    assert abs(sum(bars.evaluate_all("all => all.map(one => +one.dataset.value)")) - total) < 1e-3


def test_a_file_holds_the_head_that_matters_most(tab: Tab, file: Callable[..., str]) -> None:
    page = tab.open(file() + "#panel=ablation")
    page.get_by_role("button", name="the head that matters most here").click()
    page.wait_for_selector(".cut")
    assert "Without layer" in page.inner_text(".lead")


def test_a_part_that_is_clicked_is_taken_away_and_given_back(tab: Tab, live: Callable[[str], Any]) -> None:
    page = live("ablation")
    before = page.locator("table[aria-label='The next token before and after'] [data-value]")
    first = before.evaluate_all("all => all.map(one => +one.dataset.value)")
    assert first[::2] == first[1::2]
    page.locator(".sweep canvas").first.click(position={"x": 60, "y": 50})
    page.wait_for_selector(".cut")
    tab.drawn()
    page.wait_for_function("document.querySelector('.lead')?.textContent.includes('Without layer')")
    page.get_by_role("switch", name="cut slices of attention's output").click()
    page.wait_for_selector(".chips [data-ok=false]")
    page.get_by_role("switch", name="cut slices of attention's output").click()
    page.locator(".cut").click()
    page.wait_for_function("document.querySelector('.cut-list').textContent.includes('nothing yet')")


def test_a_second_prompt(tab: Tab, live: Callable[[str], Any]) -> None:
    page = live("ablation")
    page.get_by_label("Second prompt").fill("5 9 3")
    page.get_by_role("button", name="Patch").click()
    page.wait_for_selector("section [role=status]")
    assert "has 3 tokens and the first 8" in page.inner_text("section [role=status]")
    page.get_by_label("Second prompt").fill("5 9 3 8 1 2 30 4")
    page.get_by_role("button", name="Patch").click()
    page.wait_for_selector("[data-series=recovered]")


def test_a_token_to_watch(tab: Tab, live: Callable[[str], Any]) -> None:
    page = live("lens")
    page.get_by_label("One more token to watch").fill("36")
    page.get_by_role("button", name="Watch", exact=True).click()
    page.wait_for_selector(".watch:has-text('36')")
    page.get_by_label("One more token to watch").fill("nonsense")
    page.get_by_role("button", name="Watch", exact=True).click()
    page.wait_for_selector(".watch-form ~ [role=status], section [role=status]")
    assert "no tokenizer" in page.inner_text("section [role=status]")


def test_a_view_that_a_file_lacks_is_left_again(tab: Tab, tmp_path: Path) -> None:
    run, path = Pass(subject(), ids_for(LLAMA, 1, 6)), tmp_path / "look.html"
    path.write_text(document(run, ["next-token"]).html, encoding="utf-8")
    page = tab.open(path.as_uri() + "#panel=next-token&next-token.temperature=1.05")
    assert "lacks this view" in page.locator("[role=alert]").inner_text()
    page.get_by_role("button", name="Back").click()
    page.wait_for_selector(".likeliest")
    assert not page.locator("[role=alert]").count() and "temperature" not in page.evaluate("location.hash")


def test_the_likeliest_token_of_each_side(tab: Tab, served: Callable[..., Served]) -> None:
    """Beside another model rows are in an order that both share."""
    server = served({"one": subject(), "other": subject("gpt")}, PROMPT)
    page = tab.open(f"{server.address}#panel=next-token&beside=other")
    for side, name in (("A", "llama"), ("B", "gpt")):
        page.get_by_role("radio", name=side, exact=True).click()
        tab.drawn()
        with torch.no_grad():
            best = subject(name).model(torch.tensor([[int(id) for id in PROMPT.split()]]))[0, -1].argmax()
        page.wait_for_function(f"document.querySelector('.likeliest').textContent === '{int(best)}'", timeout=5000)
