"""P12: the block, the matrix and the loss, =API on every architecture; C13 red with the wrong order of nibbles."""

import pytest
import torch

from fathom.errors import FathomError
from fathom.glass.packing import Options, kept, panel
from fathom.glass.passes import first_pass
from fathom.glass.subject import open_subject
from fathom.model.config import ModelConfig
from tests.architectures import ARCHITECTURES, LLAMA
from tests.glass.panels import a_pass, differs_in_python

every_architecture = pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())


@every_architecture
@torch.no_grad()
def test_every_architecture(config: ModelConfig) -> None:
    run = a_pass(config)
    shown = panel(run, Options())
    if not config.n_layer:
        assert "no blocks" in (shown.absent or "")
        return
    assert shown.ok and not differs_in_python(run, shown)
    series = shown.series
    assert torch.equal(series["level"].values * series["scale"].values, series["unpacked"].values)
    assert series["used"].values.sum() == shown.facts["blocks"] * 64
    assert len(series["loss_change"].values) == len(shown.facts["tried"]) == len(shown.facts["matrices"])
    assert series["weight"].kind == series["outlier"].kind == "measured" and series["unpacked"].kind == "computed"


@pytest.mark.parametrize("scheme", ["int8", "int4", "nf4", "nf4-single"])
@torch.no_grad()
def test_every_format(scheme) -> None:
    run = a_pass(LLAMA)
    shown = panel(run, Options(layer=1, matrix="mlp.down", scheme=scheme, block=3))
    assert shown.ok and not differs_in_python(run, shown) and shown.facts["name"] == "blocks.1.mlp.down"
    wrong = panel(run, Options(scheme=scheme, fault="nibbles"))
    assert {check.id for check in wrong.checks if not check.ok} == ({"C13"} if scheme != "int8" else set())
    assert wrong.ok == (scheme == "int8") and not differs_in_python(run, wrong)


@torch.no_grad()
def test_a_matrix_that_int4_holds_better_than_nf4_is_shown_so() -> None:
    run = a_pass(LLAMA)
    weight = run.model.blocks[0].attn.q.weight
    weight.uniform_(-1, 1)
    shown = panel(run, Options())
    names = [one["name"] for one in shown.facts["schemes"]]
    row = shown.series["errors"].values[shown.facts["matrices"].index("blocks.0.attn.q")]
    assert row[names.index("int4")] < row[names.index("nf4")] and row[names.index("int4")] < row[2:].min()


@pytest.mark.parametrize("name", ["demo:adapter", "demo:llama-mqa"])
@torch.no_grad()
def test_adapted_and_packed_models(name: str) -> None:
    shown = panel(first_pass(open_subject(name), "a function"), Options(scheme="int4"))
    assert shown.ok and shown.facts["name"] == "blocks.0.attn.q" and shown.facts["error"] > 0
    packed = first_pass(open_subject("demo:llama-mqa", quantize="int4"), "a function")
    again = panel(packed, Options(scheme="int4"))
    assert again.ok and again.facts["error"] == 0 and again.facts["packed"] == "int4"
    assert not again.series["loss_change"].values.any()


@torch.no_grad()
def test_what_is_not_there_is_one_line() -> None:
    run = a_pass(LLAMA)
    for options, message in (
        (Options(matrix="attn.p"), "no matrix is called 'attn.p'; did you mean attn"),
        (Options(layer=9), "layer is 9; expected 0 to 2"),
        (Options(block=10_000), "block is 10000; blocks.0.attn.q has"),
    ):
        with pytest.raises(FathomError, match=message):
            panel(run, options)
    assert len(kept(run)) == len({*kept(run)}) == 12 and "loss" not in panel(a_pass(LLAMA, t=1), Options()).series
