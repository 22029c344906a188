"""P4: a row more than there are layers, the last one the model itself; every wrong lens turns C4 red."""

import pytest
import torch

from fathom.glass import lens
from fathom.glass.lens import Options, panel
from fathom.glass.panels import payload
from fathom.tokenizer.characters import CharacterTokenizer
from tests.architectures import ARCHITECTURES, GPT, LLAMA
from tests.glass.panels import a_pass, decoded, differs_in_python, printed

every_architecture = pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())


def red(shown) -> set[str]:
    return {check.id for check in shown.checks if not check.ok}


@every_architecture
@torch.no_grad()
def test_a_cell_for_each_row_and_token(config) -> None:
    run = a_pass(config)
    shown = panel(run, Options())
    for name in ("top", "p_top", "p_final", "entropy", "kl", "stream"):
        assert shown.series[name].values.shape == (config.n_layer + 1, 12)
    p = run.model(run.ids)[0].softmax(-1)
    assert torch.equal(shown.series["top"].values[-1], p.argmax(-1))
    assert torch.allclose(shown.series["p_final"].values[-1], p.max(-1).values, atol=1e-5)
    assert ("mlp" in shown.series) == (config.n_layer > 0 and config.mlp != "none")
    assert shown.ok and not differs_in_python(run, shown)


@every_architecture
def test_a_wrong_lens_is_red(config) -> None:
    run = a_pass(config)
    for fault in panel(run, Options()).facts["faults"]:
        assert red(panel(run, Options(fault=fault))) == {"C4"}, fault
        assert not differs_in_python(run, panel(run, Options(fault=fault)), places=1)


def test_both_wrong_lenses_are_offered_where_they_are_wrong() -> None:
    offered = {name: panel(a_pass(ARCHITECTURES[name]), Options()).facts["faults"] for name in ("gpt", "llama")}
    assert offered == {"gpt": ["no norm", "normed twice"], "llama": ["no norm", "normed twice"]}
    assert panel(a_pass(ARCHITECTURES["attention alone"]), Options()).facts["faults"] == []
    assert panel(a_pass(ARCHITECTURES["rms_plain"]), Options()).facts["faults"] == ["no norm"]


def test_norms_of_what_is_written() -> None:
    run = a_pass(GPT)
    shown, seen = panel(run, Options()), run.seen("blocks.*", "blocks.*.mlp", "embed", "position")
    start = (seen["embed"] + seen["position"])[0]
    assert torch.allclose(shown.series["stream"].values[0], start.norm(dim=-1))
    assert torch.allclose(shown.series["stream"].values[2], seen["blocks.1"][0].norm(dim=-1))
    assert torch.allclose(shown.series["mlp"].values[1], seen["blocks.1.mlp"][0].norm(dim=-1))


def test_tokens_to_watch() -> None:
    run = a_pass(LLAMA)
    shown = panel(run, Options(watch="7, 30"))
    assert shown.series["watched"].values[:, :2].tolist() == [[7, 30]] * 12
    assert "30" in shown.facts["texts"] and not differs_in_python(run, shown)
    order = run.logits[4].argsort(descending=True).tolist()
    assert shown.series["ranks"].values[4, 0, -1] == 1 + order.index(7)
    for wrong, says in (("37", "from 0 to 36"), ("seven", "has no tokenizer"), ("-1", "has no tokenizer")):
        assert says in panel(run, Options(watch=wrong)).facts["problem"]


def test_tokens_to_watch_by_their_text() -> None:
    letters = CharacterTokenizer("abcdefghijklmnopqrstuvwxyz .,")
    run = a_pass(LLAMA, tokenizer=letters)
    assert panel(run, Options(watch="c,7")).series["watched"].values[0, :2].tolist() == [letters.encode("c")[0], 7]
    assert "which is 2 tokens" in panel(run, Options(watch="ab")).facts["problem"]


def test_it_travels() -> None:
    run = a_pass(LLAMA)
    about, tensors = decoded(payload("lens", run, {"fault": "normed twice"})[0])
    assert about["options"]["fault"] == "normed twice" and not about["checks"][0]["ok"]
    assert about["source"][0]["text"].startswith("def lens") and tensors["ranks"].dtype == torch.int32


def test_the_lines_that_ran_are_those_of_the_function() -> None:
    """Not of what decorates it."""
    about, _ = decoded(payload("lens", a_pass(LLAMA), {})[0])
    assert [(one["path"], one["text"].splitlines()[0][:20]) for one in about["source"]] == [
        ("fathom/inspect/lens.py", "def lens(model: Tran"),
        ("fathom/inspect/lens.py", "@torch.no_grad()"),
    ]


def test_what_takes_long_is_said_and_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lens, "AT_ONCE", 0)
    monkeypatch.setattr(lens, "UNASKED", 0.0)
    run = a_pass(LLAMA)
    some, whole = panel(run, Options()), panel(run, Options(compute="all"))
    assert some.facts["first"] == 8 and some.facts["seconds"] > 0 and whole.facts["first"] == 0
    for name in ("p_final", "kl", "top"):
        shown, read = some.series[name].values, whole.series[name].values
        assert shown.shape == read.shape and torch.allclose(shown[:, 8:], read[:, 8:], atol=1e-5)
        assert shown[:, :8].isnan().all() if shown.is_floating_point() else (shown[:, :8] == -1).all()
    at = some.series["ranks"].values[9, 2, 1]
    assert at == whole.series["ranks"].values[9, 2, 1] == printed(run, some.series["ranks"], 9, 2, 1)
    assert some.ok
