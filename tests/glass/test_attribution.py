"""P5: the parts of a logit sum to it; a sum with a part forgotten, or each part normed alone, turns C5 red."""

import pytest
import torch

from fathom.errors import FathomError
from fathom.glass import attribution
from fathom.glass.attribution import Options, panel
from fathom.inspect.attribute import before_cap
from tests.architectures import ARCHITECTURES, GPT, LLAMA
from tests.glass.panels import a_pass, differs_in_python

every_architecture = pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())


@every_architecture
@torch.no_grad()
def test_parts_sum_to_the_logit(config) -> None:
    run = a_pass(config)
    shown = panel(run, Options(token=7))
    table, tokens = shown.series["contribution"].values, shown.series["tokens"].values
    assert table.shape == (len(shown.facts["parts"]), 12, 6) and (tokens[:, -1] == 7).all()
    logits = before_cap(run.model, run.model(run.ids)[0]).gather(-1, tokens)
    assert (table.sum(0) - logits).abs().max() < 1e-3
    assert shown.ok and not differs_in_python(run, shown)


def test_as_many_parts_as_the_model_has() -> None:
    kinds = [part["kind"] for part in panel(a_pass(GPT), Options()).facts["parts"]]
    count = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    assert count == {"embed": 1, "position": 1, "head": 18, "bias": 7, "mlp": 3}  # of 3 layers, and the norm's
    parts = panel(a_pass(LLAMA), Options()).facts["parts"]
    assert len(parts) == 1 + 3 * (6 + 1) and parts[8] == {
        "name": "blocks.1.attn.head.0", "kind": "head", "layer": 1, "head": 0,
    }  # fmt: skip


@torch.no_grad()
def test_the_difference_of_two_tokens() -> None:
    run = a_pass(LLAMA)
    shown = panel(run, Options(token=7, other=30))
    table, logits = shown.series["contribution"].values, run.model(run.ids)[0, 4]
    assert shown.series["tokens"].values[4, -2:].tolist() == [7, 30]
    assert abs((table[:, 4, -2] - table[:, 4, -1]).sum() - (logits[7] - logits[30])) < 1e-3


@pytest.mark.parametrize("name", ["gpt", "llama", "sandwich, layer norm", "scaled, tied, biased", "layer_plain"])
def test_a_wrong_sum_is_red(name: str) -> None:
    run = a_pass(ARCHITECTURES[name])
    faults = panel(run, Options()).facts["faults"]
    assert faults == (["biases"] if ARCHITECTURES[name].bias else []) + ["norms"]
    for fault in faults:
        assert not panel(run, Options(fault=fault)).ok, fault


def test_a_part_forgotten_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    right = attribution.contributions

    def without(*args):
        return {name: part for name, part in right(*args).items() if name != "blocks.1.mlp"}

    monkeypatch.setattr(attribution, "contributions", without)
    assert not panel(a_pass(LLAMA), Options()).ok


def test_tokens_of_the_model_beside_are_taken_apart_too() -> None:
    torch.manual_seed(0)
    one, other = a_pass(LLAMA), a_pass(LLAMA)
    for weight in other.model.parameters():
        weight.data += 0.1 * torch.randn(weight.shape)
    one.beside, other.beside = other, one
    first, second = (panel(run, Options()) for run in (one, other))
    for mine, its in ((first, second), (second, first)):
        likely = its.series["tokens"].values[:, :5]
        assert (likely[..., None] == mine.series["tokens"].values[:, None]).any(-1).all() and mine.ok
    assert not torch.equal(first.series["tokens"].values[:, :5], second.series["tokens"].values[:, :5])


def test_a_token_that_the_model_lacks() -> None:
    with pytest.raises(FathomError, match="run from 0 to 36"):
        panel(a_pass(LLAMA), Options(token=37))
