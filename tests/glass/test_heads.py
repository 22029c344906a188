"""P3: every head has its thumbnail and its numbers, as in Python; a mask that is dropped is red."""

import pytest
import torch

from fathom.errors import FathomError
from fathom.glass.heads import STATISTICS, Options, kept, panel, recordings, twice
from fathom.glass.panels import payload
from fathom.glass.passes import Pass, first_pass
from fathom.glass.subject import open_subject
from fathom.model import attention
from tests.architectures import ARCHITECTURES, GPT, LLAMA
from tests.glass.panels import a_pass, changed_pass, decoded, differs_in_python

WITH_LAYERS = {name: config for name, config in ARCHITECTURES.items() if config.n_layer}
every_architecture = pytest.mark.parametrize("config", WITH_LAYERS.values(), ids=WITH_LAYERS.keys())


@every_architecture
def test_the_grid_is_what_python_says(config) -> None:
    run = a_pass(config)
    shown = panel(run, Options())
    assert shown.series["thumbs"].values.shape == (4, 3, 6, 12, 12)
    assert {name for name in STATISTICS if shown.series[name].values.shape == (3, 6)} == set(STATISTICS)
    assert shown.facts["group"] == 6 // run.subject.config.resolved().n_kv_head
    assert shown.ok and not differs_in_python(run, shown)


@every_architecture
def test_a_head_in_full_is_what_python_says(config) -> None:
    run = a_pass(config)
    shown, all_of_them = panel(run, Options(2, 4)), panel(run, Options())
    with torch.no_grad():
        assert torch.equal(
            shown.series["pattern"].values, run.seen("blocks.2.attn.pattern")["blocks.2.attn.pattern"][0, 4]
        )
    for name in STATISTICS:
        assert torch.equal(shown.series[name].values.nan_to_num(), all_of_them.series[name].values[2, 4].nan_to_num())
    assert shown.ok and not differs_in_python(run, shown)


def test_random_tokens_said_twice() -> None:
    run = a_pass(LLAMA)
    grid, one = panel(run, Options(text="twice")), panel(run, Options(0, 0, "twice"))
    ids = [token["id"] for token in grid.facts["tokens"]]
    assert ids == twice(run).ids[0].tolist() and ids[:11] == ids[11:] and grid.facts["copies"] >= 11
    assert not grid.series["induction"].values.isnan().any()
    assert not differs_in_python(run, grid) and not differs_in_python(run, one)
    assert twice(a_pass(LLAMA)).ids.tolist() == twice(run).ids.tolist()


def test_layers_come_in_parts_where_they_have_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_pass(GPT)
    whole, again = panel(run, Options()), Pass(run.subject, run.ids)
    for place in ("fathom.glass.heads.MAX_BYTES", "fathom.glass.passes.MAX_BYTES"):
        monkeypatch.setattr(place, 2 * 4 * 12 * 6 * (12 + 4 + 4))  # of two layers
    assert [layers for layers, _ in recordings(again)] == [[0], [1], [2]]
    parts = panel(again, Options())
    assert all(
        torch.equal(one.values, whole.series[name].values) for name, one in parts.series.items() if name != "induction"
    )
    assert parts.ok


def test_a_text_that_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("fathom.glass.heads.MAX_BYTES", "fathom.glass.passes.MAX_BYTES"):
        monkeypatch.setattr(place, 1000)
    with pytest.raises(FathomError, match="choose a shorter text"):
        panel(a_pass(GPT), Options())


def test_a_mask_dropped_and_a_softmax_over_the_wrong_axis_are_red(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "causal", lambda t, s, device: torch.ones(t, s, dtype=torch.bool))
    assert [check.ok for check in panel(a_pass(LLAMA), Options()).checks] == [True, False]
    assert [check.ok for check in panel(a_pass(LLAMA), Options(1, 1)).checks] == [True, False]
    monkeypatch.undo()
    softmax = torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda x, dim: softmax(x, -2))
    assert [check.ok for check in panel(a_pass(LLAMA), Options()).checks] == [False, True]


@pytest.mark.parametrize("name", ["bigram", "bigram with position"])
def test_a_bigram_has_no_heads(name: str) -> None:
    shown = panel(run := a_pass(ARCHITECTURES[name]), Options())
    assert shown.absent == "A bigram has no attention: each token is predicted from the one before it alone."
    assert kept(run) == [Options()] and not shown.series


def test_a_head_that_is_not_there() -> None:
    with pytest.raises(FathomError, match="there is no head 6; the model has heads 0 to 5"):
        panel(a_pass(GPT), Options(0, 6))
    with pytest.raises(FathomError, match="there is no layer 3; the model has layers 0 to 2"):
        panel(a_pass(GPT), Options(3, 0))


def test_it_travels() -> None:
    run = a_pass(LLAMA)
    blob, shown = payload("heads", run, {})
    about, tensors = decoded(blob)
    assert tensors["thumbs"].dtype == torch.uint8 and torch.equal(tensors["thumbs"], shown.series["thumbs"].values)
    assert about["facts"]["group"] == 3 and about["series"]["sink"]["kind"] == "computed"
    assert decoded(payload("heads", run, {"layer": "1", "head": "2"})[0])[0]["series"]["pattern"]["kind"] == "measured"
    assert len(kept(run)) == 3 + 18


@pytest.mark.parametrize("kind", ["int8", "adapted"])
def test_a_packed_and_an_adapted_model(kind: str) -> None:
    run = changed_pass(kind)
    with torch.no_grad():
        shown = panel(run, Options(1, 4))
    assert shown.ok and not differs_in_python(run, shown, places=2)


def test_a_model_trained_to_copy_has_an_induction_head() -> None:
    run = first_pass(open_subject("demo:copycat"), "abcdefgh abcdefgh")
    found = panel(run, Options(text="twice")).series["induction"].values
    assert found[1:].max() > 0.5 and found[0].max() < 0.5
    before = panel(run, Options(text="twice")).series["previous"].values
    assert before[0].max() > 0.5  # what it is made of: a head that looks at the token before, in the layer below
