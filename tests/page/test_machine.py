"""P12 and P13 as they are drawn: each line of arithmetic gives the bytes beside it; the switch of packing is red."""

from pathlib import Path

import pytest
import torch

from fathom.glass.document import document
from fathom.glass.passes import Pass
from fathom.glass.subject import Subject
from tests.anatomy.test_amounts import worked_out
from tests.architectures import LLAMA, ids_for, model_of
from tests.page.conftest import Tab


@pytest.fixture
def run() -> Pass:
    torch.manual_seed(0)
    model = model_of(LLAMA)
    with torch.no_grad():
        model.blocks[0].attn.q.weight.uniform_(-1, 1)  # spread evenly, as int4's levels are
    return Pass(Subject("small", model, None), ids_for(LLAMA, 1, 12))


def opened(tab: Tab, run: Pass, folder: Path, panel: str):
    path = folder / "look.html"
    path.write_text(document(run, [panel], prompt="1 2 3").html, encoding="utf-8")
    return tab.open(f"{path.as_uri()}#panel={panel}")


def test_arithmetic_is_what_it_says(tab: Tab, run: Pass, tmp_path: Path) -> None:
    page = opened(tab, run, tmp_path, "cost")
    assert page.inner_text(".cost h2").replace(",", "") == f"{run.subject.card()['parameters']} parameters"
    shown = 0
    for use in ("inference", "training, all weights", "LoRA", "QLoRA"):
        page.get_by_role("radio", name=use, exact=True).click()
        for row in page.query_selector_all(".memory tbody tr:has(.worked-out)"):
            cell = row.query_selector("[data-value]")
            assert worked_out(row.query_selector(".worked-out").inner_text()) == int(cell.get_attribute("data-value"))
            assert cell.inner_text().replace(",", "") == cell.get_attribute("data-value")
            shown += 1
    assert shown >= 15
    for row in page.query_selector_all(".cost .bars tbody tr"):
        value = int(row.query_selector("[data-value]").get_attribute("data-value"))
        assert worked_out(row.query_selector(".worked-out").inner_text()) == value
    assert len(page.query_selector_all(".treemap .part")) == len(run.subject.map()) - 1 + 3 * 9
    page.get_by_role("switch").click()
    tab.drawn()
    page.wait_for_selector(".chip[data-ok=false]")


def test_a_matrix_that_int4_holds_better_is_shown_so(tab: Tab, run: Pass, tmp_path: Path) -> None:
    page = opened(tab, run, tmp_path, "packing")
    nearest = page.inner_text("tr[data-picked=true] .nearest")
    row = page.eval_on_selector_all("tr[data-picked=true] [data-value]", "all => all.map(one => +one.dataset.value)")
    assert row[1] < row[2] and nearest == f"{100 * row[1]:.2f}%"
    assert "int4 is nearer than NF4 in" in page.inner_text(".packing")
    page.get_by_role("button", name="mlp.down", exact=True).click()
    page.wait_for_selector(".lead:has-text('blocks.0.mlp.down')")
    page.get_by_role("button", name="attn.q", exact=True).click()
    page.get_by_role("switch").click()
    page.wait_for_selector(".chip[data-ok=false]")
