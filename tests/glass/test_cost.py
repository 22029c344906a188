"""P13: total = card, each bar's arithmetic = the bar, C14 on every architecture, adapted and packed ones too."""

import json
from pathlib import Path

import pytest
import torch

from fathom.errors import FathomError
from fathom.glass import limits, subject
from fathom.glass.cost import Options, kept, panel
from fathom.glass.passes import first_pass
from fathom.glass.subject import open_subject
from fathom.model.config import ModelConfig
from tests.anatomy.test_amounts import worked_out
from tests.architectures import ARCHITECTURES, LLAMA
from tests.glass.panels import a_pass, differs_in_python

every_architecture = pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())


def bars_are_their_arithmetic(shown) -> bool:
    found = [worked_out(formula) for row in shown.facts["formulas"] for formula in row]
    products = [worked_out(formula) for formula in shown.facts["flop_formulas"]]
    return (
        found == shown.series["memory"].values.flatten().tolist() and products == shown.series["flops"].values.tolist()
    )


@pytest.fixture(autouse=True)
def quick_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """A cache folder of its own, and limits that are measured at once; how often they were."""
    measured: list[int] = []
    monkeypatch.setenv("FATHOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(limits, "bandwidth", lambda *_: (measured.append(1), (10.0, 5.0))[1])
    monkeypatch.setattr(limits, "products", lambda *_: 50.0)
    return measured


@every_architecture
def test_every_architecture(config: ModelConfig, quick_limits: list[int]) -> None:
    run = a_pass(config)
    shown = panel(run, Options(measure=True))
    assert shown.ok and not differs_in_python(run, shown) and bars_are_their_arithmetic(shown)
    assert shown.series["parameters"].values.sum() == shown.facts["total"] == run.subject.card()["parameters"]
    points = shown.facts["roofline"]["points"]
    assert [one["name"] for one in points] == ["the prompt at once", "one more token"]
    assert all(one["seconds"] > 0 and one["flops"] > 0 and one["bytes"] > 0 for one in points)
    assert points[0]["flops"] == shown.series["flops"].values.sum()


@every_architecture
def test_an_embedding_counted_as_a_product_is_red(config: ModelConfig) -> None:
    wrong = panel(a_pass(config), Options(fault="embedding"))
    assert [(check.id, check.says) for check in wrong.checks if not check.ok] == [("C14", "FLOPs")]


def test_a_tie_counted_twice_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "fathom.glass.subject.sizes_of",
        lambda model: {name: sum(x.numel() for x in part.parameters(False)) for name, part in model.named_modules()},
    )
    monkeypatch.setattr("fathom.glass.cost.sizes_of", subject.sizes_of)
    shown = panel(a_pass(ARCHITECTURES["gpt"]), Options())
    assert [check.says for check in shown.checks if not check.ok] == ["parameters"]


@pytest.mark.parametrize("scheme", [None, "int8", "nf4"])
@pytest.mark.parametrize("name", ["demo:adapter", "demo:gpt-tiny"])
def test_adapted_and_packed_models(name: str, scheme: str | None) -> None:
    run = first_pass(open_subject(name, quantize=scheme), "a function")
    before = run.logits.clone()
    shown = panel(run, Options())
    assert shown.ok and bars_are_their_arithmetic(shown) and not differs_in_python(run, shown)
    with torch.no_grad():
        assert torch.equal(run.model(run.ids)[0], before)


def test_other_amounts() -> None:
    run = a_pass(LLAMA)
    shown = panel(run, Options(tokens=1000, batch=4, rank=16))
    assert shown.ok and bars_are_their_arithmetic(shown) and not differs_in_python(run, shown)
    assert shown.facts["formulas"][0][-1].startswith("2 × 3,000 × 2 × 4 × 4")
    with pytest.raises(FathomError, match="batch is 0; expected a whole number from 1"):
        Options(batch=0)
    assert len(kept(run)) == 3


def test_limits_are_measured_when_asked_for_once_and_kept(quick_limits: list[int], tmp_path: Path) -> None:
    run = a_pass(LLAMA)
    assert panel(run, Options()).facts["roofline"] is None and not quick_limits
    first = panel(run, Options(measure=True)).facts["roofline"]
    assert (first["read_gb_s"], first["gemm_gflop_s"]) == (10.0, 50.0)
    again = panel(a_pass(LLAMA), Options()).facts["roofline"]
    assert again is not None and again["day"] == first["day"] and len(quick_limits) == 1
    panel(run, Options(measure=True))
    assert len(quick_limits) == 1
    file = tmp_path / "cache" / limits.FILE
    for damaged in ("{", "[]", json.dumps({name: {"day": 3} for name in json.loads(file.read_text())})):
        file.write_text(damaged)
        assert panel(run, Options()).facts["roofline"] is None
    panel(run, Options(measure=True))
    assert len(quick_limits) == 2


def test_limits_that_can_be_kept_nowhere_are_shown(quick_limits: list[int], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert panel(a_pass(LLAMA), Options(measure=True)).facts["roofline"]["read_gb_s"] == 10.0
