"""P7: sliding both leaves the score, numbers are Python's, and a wrong layout is red, on every kind of position."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.nn.functional as F

from fathom.adapters import lora
from fathom.errors import FathomError
from fathom.glass.passes import Pass, first_pass
from fathom.glass.positions import Options, kept, panel
from fathom.glass.rope_layout import against
from fathom.glass.subject import Subject, open_subject
from fathom.model import position
from fathom.model.config import ModelConfig
from fathom.model.position import Alibi, LearnedPosition
from fathom.model.transformer import Transformer
from fathom.verification.layout import Layout, RopeLayout
from tests.architectures import ARCHITECTURES, BEYOND, GPT, LLAMA
from tests.glass.panels import a_pass, differs_in_python

EVERY = {**ARCHITECTURES, **BEYOND}
every_architecture = pytest.mark.parametrize("config", EVERY.values(), ids=EVERY.keys())
TEXT = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park with her dog."


@pytest.fixture
def stories(shared_data: Path) -> Pass:
    return first_pass(open_subject(shared_data / "stories260K" / "stories260K.bin"), TEXT)


@every_architecture
@torch.no_grad()
def test_every_kind_of_position(config: ModelConfig) -> None:
    run = a_pass(config)
    shown = panel(run, Options())
    if config.position == "none" or not (config.n_layer or config.position == "learned"):
        assert shown.absent
        return
    assert shown.ok and shown.checks and shown.absent is None, shown.checks
    assert shown.facts["kind"] == config.position
    assert not differs_in_python(run, shown)


@pytest.mark.parametrize("fault", ["layout", "angles"])
@pytest.mark.parametrize("name", [name for name, config in EVERY.items() if config.position == "rope"])
@torch.no_grad()
def test_every_mistake_can_be_made(name: str, fault: Literal["layout", "angles"]) -> None:
    run = a_pass(EVERY[name])
    shown = panel(run, Options(fault=fault))
    assert shown.absent is None and not differs_in_python(run, shown, places=1)
    if fault == "angles" and shown.facts["rotated"] > 2:
        assert not shown.ok


@torch.no_grad()
def test_sliding_both_leaves_the_score(stories: Pass) -> None:
    scores = panel(stories, Options(layer=1, head=3, query=20, key=17)).series["scores"].values
    for distance in range(20):
        assert scores.diagonal(-distance).max() - scores.diagonal(-distance).min() <= 1e-4
    recorded = stories.seen("blocks.1.attn.scores")["blocks.1.attn.scores"][0, 3, 20, 17]
    assert scores[20, 17].item() == pytest.approx(recorded.item(), abs=1e-5)


@torch.no_grad()
def test_a_layer_that_does_not_rotate_says_so() -> None:
    run = a_pass(ARCHITECTURES["every kind of layer"])
    assert "Layer 2 does not rotate" in (panel(run, Options(layer=2)).absent or "")
    with pytest.raises(FathomError, match="there is no layer 3"):
        panel(run, Options(layer=3))
    with pytest.raises(FathomError, match="there is no head 6"):
        panel(run, Options(head=6))


@torch.no_grad()
def test_a_wrong_conversion_turns_c8_red(stories: Pass) -> None:
    right = panel(stories, Options())
    assert right.ok and right.facts["layout"]["verdict"] == "right" and not differs_in_python(stories, right)
    wrong = panel(stories, Options(fault="layout"))
    assert [check.id for check in wrong.checks if not check.ok] == ["C8"]
    assert "wrong conversion" in wrong.facts["layout"]["why"] and not differs_in_python(stories, wrong)
    losses = [shown.series["layout_loss"].values for shown in (right, wrong)]
    assert losses[0][0].item() == pytest.approx(losses[1][1].item(), abs=1e-4)


@torch.no_grad()
def test_a_wrongly_converted_file_is_red_by_itself(stories: Pass) -> None:
    """Rows of q and k as Meta's files have them, in a model that reads them as half-split: no switch is on."""
    for linear in (linear for block in stories.model.blocks for linear in (block.attn.q, block.attn.k)):
        linear.weight.data = linear.weight.data.unflatten(0, (-1, 2, 4)).transpose(1, 2).flatten(0, 2)
    shown = panel(Pass(stories.subject, stories.ids), Options())
    assert not shown.ok and shown.facts["layout"]["verdict"] == "wrong"


def partly(run: Pass) -> Pass:
    """The same function with 4 channels a head that are not rotated, all of them 0, beside the 8 that are."""
    whole = run.subject.config.resolved()
    wide = whole.head_dim + 4
    rope = replace(whole.rope, rotated=whole.head_dim)
    made = Transformer(replace(run.subject.config, head_dim=wide, rope=rope)).eval()
    weights = run.model.state_dict()
    for name, own in list(weights.items()):
        if name.endswith((".attn.q.weight", ".attn.k.weight", ".attn.v.weight")):
            sharper = (wide / whole.head_dim) ** 0.5 if ".q." in name else 1.0
            weights[name] = sharper * F.pad(own.unflatten(0, (-1, whole.head_dim)), (0, 0, 0, 4)).flatten(0, 1)
        if name.endswith(".attn.out.weight"):
            weights[name] = F.pad(own.unflatten(1, (-1, whole.head_dim)), (0, 4)).flatten(1, 2)
    made.load_state_dict(weights)
    assert torch.allclose(made(run.ids), run.model(run.ids), atol=1e-3)
    return Pass(Subject("partly", made, None), run.ids)


@torch.no_grad()
def test_heads_that_are_rotated_in_part_are_judged(stories: Pass) -> None:
    run = partly(stories)
    right, wrong = panel(run, Options()), panel(run, Options(fault="layout"))
    assert right.ok and right.facts["layout"]["verdict"] == "right"
    assert wrong.facts["layout"]["verdict"] == "wrong" and [one.id for one in wrong.checks if not one.ok] == ["C8"]
    losses = [shown.series["layout_loss"].values for shown in (right, wrong)]
    assert losses[0][0].item() == pytest.approx(losses[1][1].item(), abs=1e-4)
    told, other = (shown.series["agreement"].values for shown in (right, wrong))
    assert told[0] > 4 and told[1] < 0 and other[1].item() == pytest.approx(told[0].item(), rel=1e-4)
    for linear in (linear for block in run.model.blocks for linear in (block.attn.q, block.attn.k)):
        heads = linear.weight.data.unflatten(0, (-1, 12))
        moved = heads[:, :8].unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)
        linear.weight.data = torch.cat((moved, heads[:, 8:]), 1).flatten(0, 1)
    assert panel(Pass(run.subject, run.ids), Options()).facts["layout"]["verdict"] == "wrong"


@torch.no_grad()
def test_weights_in_neither_layout_are_red(shared_data: Path) -> None:
    subject = open_subject(shared_data / "stories260K" / "stories260K.bin")
    for linear in (linear for block in subject.model.blocks for linear in (block.attn.q, block.attn.k)):
        linear.weight.data = linear.weight.data.unflatten(0, (-1, 4, 2)).transpose(1, 2).flatten(0, 2)
    shown = panel(first_pass(subject, TEXT), Options())
    assert [check.id for check in shown.checks if not check.ok] == ["C8"]
    assert shown.facts["layout"]["verdict"] == "wrong" and "neither layout" in shown.facts["layout"]["why"]


@torch.no_grad()
def test_angles_of_the_other_layout_turn_c8_red() -> None:
    run = a_pass(LLAMA)
    wrong = panel(run, Options(fault="angles"))
    red = [check.says for check in wrong.checks if not check.ok]
    assert red == [
        "score depends on the distance", "rotation keeps norms", "the score at these places is the model's"
    ]  # fmt: skip
    assert not differs_in_python(run, wrong)


@torch.no_grad()
def test_another_base_and_scaling() -> None:
    run = a_pass(LLAMA)
    wide = panel(run, Options(theta=100.0))
    assert wide.series["frequency"].values.tolist() == pytest.approx([1.0, 0.1])
    assert wide.facts["theta"] == 100 and wide.series["far"].values.shape[0] == 2 and wide.ok
    assert not differs_in_python(run, wide)
    slow = panel(run, Options(scaling="yarn", factor=4.0))
    assert slow.ok and slow.facts["scaling"] == "yarn, factor 4" and not differs_in_python(run, slow)
    plain = panel(a_pass(ARCHITECTURES["linear"]), Options(scaling="none"))
    assert plain.series["frequency"].values.tolist() == pytest.approx([1.0, 0.01])


@torch.no_grad()
def test_a_wrong_slope_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_pass(ARCHITECTURES["alibi"])
    right = panel(run, Options())
    expected = [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3]  # six heads: four of 4, then two of 8
    assert right.series["slopes"].values.tolist() == expected
    position_module = run.model.position
    assert isinstance(position_module, Alibi)
    position_module.slopes = position_module.slopes / 2
    assert not panel(Pass(run.subject, run.ids), Options()).ok


@torch.no_grad()
def test_the_row_of_another_position_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_pass(GPT)
    shown = panel(run, Options())
    table = run.model.state_dict()["position.table.weight"].double()
    expected = torch.nn.functional.cosine_similarity(table[3], table[7], dim=0).item()
    assert shown.series["cosine"].values[3, 7].item() == pytest.approx(expected, abs=1e-6)
    embed = LearnedPosition.embed
    monkeypatch.setattr(position.LearnedPosition, "embed", lambda self, x, at: embed(self, x, at + 1))
    assert not panel(Pass(run.subject, run.ids), Options()).ok


@torch.no_grad()
def test_packed_and_adapted_models(shared_data: Path) -> None:
    path = shared_data / "stories260K" / "stories260K.bin"
    packed = first_pass(open_subject(path, quantize="int4"), TEXT)
    assert panel(packed, Options()).facts["layout"]["verdict"] == "right"
    assert not panel(packed, Options(fault="layout")).ok
    adapted = open_subject(path)
    lora.add(adapted.model, lora.LoraOptions(rank=2))
    shown = panel(first_pass(adapted, TEXT), Options())
    assert shown.ok and shown.facts["layout"]["verdict"] == "right"


def test_what_an_exported_file_holds(stories: Pass) -> None:
    views = kept(stories)
    assert views[0] == Options() and {view.fault for view in views} == {None, "layout", "angles"}
    assert Options(head=7) in views and not math.isnan(len(views)) and len(set(views)) == len(views)
    assert kept(a_pass(ARCHITECTURES["bigram"])) == [Options()]


def test_the_layout_of_untrained_weights_is_never_red() -> None:
    """What a few heads of random weights agree on is chance, however many standard errors of their own it is."""
    agreed, chance = RopeLayout(half_split=-2.0, interleaved=9.0), math.log(32)
    assert against(Layout(agreed, chance, chance - 0.1, 0.0), 32) == 0
    assert against(Layout(agreed, chance, chance - 0.1, -7.0), 32) == 0
    assert against(Layout(agreed, chance, 1.0, 0.0), 32) == 5.5
    assert against(Layout(agreed, chance, 1.0, -7.0), 32) == 7
