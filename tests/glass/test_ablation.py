"""P6: nothing cut changes nothing, a cell of the sweep is a direct edit, costs are said, patching is checked."""

import pytest
import torch

import fathom
from fathom.glass import ablation
from fathom.glass.ablation import Options, kept, panel
from fathom.glass.passes import Pass
from fathom.glass.subject import Subject
from fathom.inspect import patch
from fathom.inspect.edit import edit, zero
from tests.architectures import ARCHITECTURES, GPT, LLAMA, ids_for, model_of
from tests.glass.panels import a_pass, differs_in_python

LAYERED = {name: config for name, config in ARCHITECTURES.items() if config.n_layer}
ROUNDING = 2e-5  # a sweep runs many rows at once, the snippet of a cell one
with_layers = pytest.mark.parametrize("config", LAYERED.values(), ids=LAYERED.keys())


@with_layers
def test_nothing_cut_changes_nothing(config) -> None:
    shown = panel(a_pass(config), Options(new=3))
    assert (shown.series["kl"].values == 0).all()
    assert torch.equal(shown.series["before"].values, shown.series["after"].values)
    assert shown.facts["text"]["before"] == shown.facts["text"]["after"]
    assert shown.ok


@with_layers
@torch.no_grad()
def test_a_cell_of_the_sweep_is_a_direct_edit(config) -> None:
    run = a_pass(config)
    shown = panel(run, Options(new=0))
    before = run.model(run.ids)[0].log_softmax(-1)
    with edit(run.model, zero("blocks.2.attn.z", head=3)):
        after = run.model(run.ids)[0].log_softmax(-1)
    divergence = (before.exp() * (before - after)).sum(-1)
    torch.testing.assert_close(shown.series["sweep_kl"].values[2, 3], divergence, atol=1e-5, rtol=1e-4)
    assert not differs_in_python(run, shown, places=2, within=ROUNDING)


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_what_is_shown_is_what_python_prints(how) -> None:
    run = a_pass(LLAMA)
    cut = "blocks.1.attn.head.2 blocks.2.mlp blocks.0.attn.head.5.query.7.key.3"
    shown = panel(run, Options(cut=cut, how=how, new=2))
    assert shown.facts["cut"] == cut.split() and shown.series["kl"].values[5] > 0
    assert shown.ok and not differs_in_python(run, shown, within=ROUNDING)


def test_slices_turn_c7_red() -> None:
    run = a_pass(GPT)
    shown = panel(run, Options(cut="blocks.1.attn.head.2", fault="slices"))
    assert [check.id for check in shown.checks if not check.ok] == ["C7"]
    assert panel(run, Options(cut="blocks.1.attn.head.2")).ok


def test_what_cannot_be_cut_is_one_line() -> None:
    shown = panel(a_pass(LLAMA), Options(cut="blocks.1.attn.query.0.key.0"))
    assert "\n" not in shown.facts["problem"] and "nothing left" in shown.facts["problem"]
    assert shown.facts["cut"] == [] and (shown.series["kl"].values == 0).all()


def test_a_model_without_blocks_says_so() -> None:
    shown = panel(a_pass(ARCHITECTURES["bigram"]), Options())
    assert shown.absent == ablation.ABSENT and not shown.series
    assert kept(a_pass(ARCHITECTURES["bigram"])) == [Options()]


def test_what_takes_long_is_said_and_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "UNASKED", 0.0)
    run, other = a_pass(LLAMA), " ".join(["5", "9", "3", "8", "1", "2", "30", "7", "11", "4", "6", "12"])
    shown = panel(run, Options(other=other))
    assert shown.series["sweep_kl"].values.isnan().all() and "recovered" not in shown.series
    sweep, text, patched = (shown.facts[name] for name in ("sweep", "text", "patch"))
    assert sweep["passes"] == 3 * 9 and sweep["seconds"] > 0 and not sweep["computed"]
    assert patched["passes"] == 3 * 12 and not patched["computed"] and "before" not in text
    one = panel(run, Options(compute="sweep", only=1))
    rows = one.series["sweep_kl"].values.isnan().all(-1).all(-1)
    assert rows.tolist() == [True, False, True] and one.facts["sweep"]["layers"] == [1]
    every = panel(run, Options(compute="sweep patch text", other=other))
    assert not every.series["sweep_kl"].values.isnan().any() and every.facts["text"]["after"]
    assert every.series["recovered"].values.shape == (3, 12)
    monkeypatch.setattr(ablation, "MOST", 0.0)
    assert not panel(a_pass(LLAMA), Options(compute="sweep")).facts["sweep"]["computed"]


@with_layers
def test_patching_from_a_second_prompt(config) -> None:
    run = a_pass(config)
    other = " ".join(map(str, ids_for(config, 1, 12)[0].tolist()))
    for what in ("stream", "heads"):
        shown = panel(run, Options(other=other, what=what, new=0))
        says = {check.says: check.ok for check in shown.checks}
        assert says["all of layer 0 put in gives the other run"] and shown.ok
        assert not differs_in_python(run, shown, places=2, within=ROUNDING)
    stream = panel(run, Options(other=other, new=0)).series["recovered"].values
    torch.testing.assert_close(stream[-1, -1].item(), 1.0, atol=1e-4, rtol=0)


def test_half_of_a_layer_turns_c7_red(monkeypatch: pytest.MonkeyPatch) -> None:
    run, put = a_pass(LLAMA), patch._put

    def half(x, rows, there):
        return put(x[:, :6], rows, there[:6]) if rows == (slice(None),) else put(x, rows, there)

    monkeypatch.setattr(patch, "_put", lambda x, rows, there: torch.cat((half(x, rows, there)[:, :6], x[:, 6:]), 1))
    shown = panel(run, Options(other="5 9 3 8 1 2 30 7 11 4 6 12"))
    assert [check.says for check in shown.checks if not check.ok] == ["all of layer 0 put in gives the other run"]


def test_unlike_prompts_are_one_line() -> None:
    run = a_pass(LLAMA)
    for other, says in (("5 9 3", "has 3 tokens and the first 12"), ("5 x", "'x' is no id")):
        why = panel(run, Options(other=other)).facts["patch"]["why"]
        assert says in why and "\n" not in why
    same = " ".join(map(str, run.ids[0].tolist()))
    assert "same tokens" in panel(run, Options(other=same)).facts["patch"]["why"]


def test_a_full_context_has_no_room_for_new_text() -> None:
    config = GPT
    run = Pass(Subject("small", model_of(config).eval(), None), ids_for(config, 1, config.context_length))
    assert "no room" in panel(run, Options()).facts["text"]["why"]


def test_an_exported_file_holds_the_head_that_matters_most() -> None:
    run = a_pass(LLAMA)
    first, cut = kept(run)
    heads = panel(run, first).series["sweep_kl"].values[:, :6, -1]
    layer, head = divmod(int(heads.argmax()), 6)
    assert cut.cut == f"blocks.{layer}.attn.head.{head}"


def test_a_copying_head_taken_away_costs_the_repeated_half() -> None:
    """The demo that learned to copy: without its induction head the second half is guessed."""
    model, tokenizer = fathom.demo("copycat")
    half = torch.randint(model.config.vocab_size, (1, 24))
    run = Pass(Subject("copycat", model, tokenizer), torch.cat((half, half), 1))
    swept = -panel(run, Options(new=0)).series["sweep_change"].values[1, :4, 24:-1].mean(-1)  # of layer 1's heads
    head = int(swept.argmax())
    cut = panel(run, Options(cut=f"blocks.1.attn.head.{head}", new=0))
    assert -cut.series["change"].values[24:-1].mean() > 1 > 0.1 > swept[swept != swept[head]].max()
    torch.testing.assert_close(-cut.series["change"].values[24:-1].mean(), swept[head], atol=1e-4, rtol=1e-4)
