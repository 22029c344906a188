"""Runs and what changed the weights, in a real browser: curves that grow by themselves, numbers of the file, a run that
vanishes; and a rank slider whose loss is the one that Python computes."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fathom.adapters import lora
from fathom.adapters.options import LoraOptions
from fathom.formats.run import METRICS
from fathom.glass.document import document
from fathom.glass.passes import first_pass
from fathom.glass.subject import Subject, open_subject
from fathom.lab.changed import Decomposed, adapted
from fathom.training.train import train
from tests.architectures import LLAMA, model_of
from tests.page.conftest import Tab
from tests.training.runs import recipe

PROMPT = "5 17 3 5 9"
CURVE = ".run-curves path.chart-line"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two runs that differ in their learning rate."""
    first = recipe(tmp_path)
    train(first, tmp_path / "runs" / "one")
    train(first.changed({}, {"learning_rate": 0.01}), tmp_path / "runs" / "other")
    return tmp_path / "runs"


def test_runs_are_watched(tab: Tab, served: Callable[..., Any], folder: Path) -> None:
    subject = Subject("small", model_of(LLAMA).eval(), None)
    page = tab.open(
        f"{served({'small': subject}, PROMPT, folder).address}#panel=runs&runs.runs=one|other&runs.metric=loss"
    )
    losses = [line["loss"] for line in lines(folder / "one") if "loss" in line]
    curve = page.wait_for_selector("path.chart-line[data-source='metrics.jsonl: loss']")
    assert curve.get_attribute("data-kind") == "measured" and curve.get_attribute("d").count("L") == len(losses) - 1
    page.locator("svg[aria-label^='training loss']").press("ArrowRight")
    assert f"one {losses[0]:.3f}" in page.locator(".run-curves .chart-name").first.inner_text()
    assert "They differ in one field, train.learning_rate" in page.inner_text(".run-compared")
    assert page.locator(".run-compared tbody tr").count() == 1

    with (folder / "one" / METRICS).open("a") as file:  # as a run that trains would
        file.write(
            json.dumps({"step": 13, "loss": 1.25, "learning_rate": 0, "grad_norm": 1, "tokens": 1, "seconds": 1}) + "\n"
        )
    page.evaluate("location.reload()")  # it had finished, so it is not asked again by itself
    page.wait_for_function(
        "n => document.querySelector(\"path.chart-line\")?.getAttribute('d').split('L').length === n",
        arg=len(losses) + 1,
    )
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.set_viewport_size({"width": 1280, "height": 900})
    shutil.rmtree(folder / "one")
    page.evaluate("location.reload()")
    page.wait_for_selector("text=there is no run 'one' any more")


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / METRICS).read_text().splitlines()]


def test_a_run_that_trains_grows_by_itself(tab: Tab, served: Callable[..., Any], folder: Path) -> None:
    page_file = folder / "one" / "page.html"
    page_file.write_text(
        page_file.read_text().replace("finished: step", "training: step").replace("state good", "state")
    )
    subject = Subject("small", model_of(LLAMA).eval(), None)
    page = tab.open(f"{served({'small': subject}, PROMPT, folder).address}#panel=runs&runs.runs=one&runs.metric=loss")
    page.wait_for_selector(CURVE)
    before = page.locator(CURVE).get_attribute("d").count("L")
    with (folder / "one" / METRICS).open("a") as file:
        file.write('{"step": 13, "loss": 1.25, "learning_rate": 0, "grad_norm": 1, "tokens": 9000, "seconds": 99}\n')
    page.wait_for_function(
        "n => document.querySelector('path.chart-line').getAttribute('d').split('L').length > n + 1", arg=before
    )
    shutil.rmtree(folder / "one")
    page.wait_for_selector("text=there is no run 'one' any more")


@pytest.mark.slow
def test_a_run_is_started_and_stopped_on_the_page(tab: Tab, served: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    subject = Subject("small", model_of(LLAMA).eval(), None)
    page = tab.open(f"{served({'small': subject}, PROMPT, tmp_path / 'runs').address}#panel=runs&runs.metric=loss")
    page.set_default_timeout(120_000)
    page.wait_for_selector("text=No run yet")
    page.locator(".run-start select").first.select_option("shakespeare-cpu")  # long enough to be stopped
    page.get_by_role("button", name="Start").click()
    page.wait_for_selector(CURVE)
    page.get_by_role("button", name="Stop").click()
    page.wait_for_selector(".run-state[data-state=stopped]")
    assert (tmp_path / "runs" / "shakespeare-cpu-1" / "checkpoints").is_dir()
    assert page.get_by_role("button", name="Resume").is_visible()


def test_the_rank_slider_has_the_loss_that_python_computes(tab: Tab, served: Callable[..., Any]) -> None:
    model = model_of(LLAMA, std=0.2).eval()
    lora.add(model, LoraOptions(rank=4, alpha=8.0))
    with torch.no_grad():
        for parameter in lora.parameters(model):
            parameter.normal_(std=0.1)
    subject = Subject("small", model, None)
    page = tab.open(f"{served({'small': subject}, PROMPT).address}#panel=lora")
    ids = first_pass(subject, PROMPT).ids
    found = Decomposed(adapted(copy.deepcopy(model)), ids)
    page.get_by_label("rank r").press("ArrowRight")  # to 5, which is not among the ranks that are tried at first
    page.wait_for_function("() => document.querySelectorAll('.lora-figure [data-value]').length > 2")
    tab.drawn()
    shown = page.eval_on_selector_all(".lora-figure [data-value]", "all => all.map(one => Number(one.dataset.value))")
    assert shown[:2] == pytest.approx([found.cut_change(5), found.cut_weights(5)], abs=1e-5)
    assert "lora.rank=5" in page.url
    assert page.locator(".chips [data-ok=false]").count() == 0
    page.get_by_role("switch", name="wrong on purpose").click()
    page.wait_for_function("() => document.querySelectorAll('[data-ok=false]').length > 0")


def test_a_file_has_its_sliders_too(tab: Tab, tmp_path: Path) -> None:
    run = first_pass(Subject("small", model_of(LLAMA, std=0.2).eval(), None), PROMPT)
    (tmp_path / "look.html").write_text(document(run, ["lora", "runs"]).html, encoding="utf-8")
    page = tab.open((tmp_path / "look.html").as_uri() + "#panel=lora")
    page.get_by_label("rank r").press("ArrowLeft")
    assert page.locator(".lora-figure [data-value]").count() == 1
    page.get_by_role("radio", name="mlp.up").click()
    page.wait_for_selector("text=blocks.0.mlp.up")
    page.get_by_role("radio", name="2", exact=True).click()
    page.wait_for_selector("text=blocks.2.mlp.up")
    page.get_by_role("navigation", name="Panels").get_by_role("button", name="Runs and ladder").click()
    page.get_by_role("radio", name="leave one out").click()
    page.get_by_role("button", name="– attention").first.click()
    assert "Without attention" in page.inner_text("article.idea")


def test_the_page_of_a_run_shows_how_it_was_trained(tab: Tab, folder: Path, tmp_path: Path) -> None:
    run = first_pass(open_subject(folder / "one"), "green bottles")
    (tmp_path / "look.html").write_text(document(run, ["runs"]).html, encoding="utf-8")
    page = tab.open((tmp_path / "look.html").as_uri())
    assert "How one was trained" in page.inner_text("main") and page.locator("path.chart-line").count() >= 2
