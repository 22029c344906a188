"""P2: every stage has its data, as in Python; sums of products are the numbers; each switch turns its check red."""

from dataclasses import replace

import pytest
import torch

from fathom.errors import FathomError
from fathom.glass.heads import teaching
from fathom.glass.microscope import Options, kept, panel
from fathom.glass.panels import payload, variants
from fathom.model import attention
from tests.architectures import ARCHITECTURES, GPT, LLAMA
from tests.glass.panels import a_pass, changed_pass, decoded, differs_in_python

WITH_LAYERS = {name: config for name, config in ARCHITECTURES.items() if config.n_layer}
every_architecture = pytest.mark.parametrize("config", WITH_LAYERS.values(), ids=WITH_LAYERS.keys())
STAGES = ("x", "norm", "q", "k", "v", "dot", "scaled", "scores", "pattern", "z", "out", "attn", "stream")


def broken(config, **options) -> set[str]:
    return {check.says for check in panel(a_pass(config), Options(1, 4, **options)).checks if not check.ok}


@every_architecture
def test_every_stage_is_what_python_says(config) -> None:
    run = a_pass(config)
    shown = panel(run, Options(1, 4))
    assert all(shown.series[name].values.numel() for name in STAGES) and shown.ok
    assert not differs_in_python(run, shown, places=2)
    share = shown.series["pattern"].values.sum()
    assert share < 1 if "sink" in config.bias else share == pytest.approx(1, abs=1e-6)
    with torch.no_grad():
        z = run.seen("blocks.1.attn.z")["blocks.1.attn.z"]
    assert torch.equal(shown.series["z"].values, z[0, -1, 4])


@every_architecture
def test_numbers_are_the_sums_of_products_that_the_page_lists(config) -> None:
    run = a_pass(config)
    s = {name: series.values for name, series in panel(run, Options(2, 5, 7)).series.items()}
    q, k = s.get("q_rot", s["q"]), s.get("k_rot", s["k"])
    close = lambda a, b: torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)  # noqa: E731
    close((q * k).sum(-1), s["dot"])
    close((s["pattern"][:, None] * s["v"]).sum(0), s["z"])
    close((s["w_q"] * s["norm"][7]).sum(-1) + s.get("b_q", 0), s["q"])
    for key in (0, 9):
        close((s["w_k"] * s["norm"][key]).sum(-1) + s.get("b_k", 0), s["k"][key])
        close((s["w_v"] * s["norm"][key]).sum(-1) + s.get("b_v", 0), s["v"][key])
    close((s["z"][:, None] * s["w_out"]).sum(0), s["out"])
    seen = s["scores"].isfinite()
    if config.position != "alibi":
        close(s["scaled"][seen], s["scores"][seen])
    sinks = run.model.blocks[2].attn.sinks
    sink = [] if sinks is None else [sinks[5].detach()]
    close(torch.stack([*s["scores"], *sink]).softmax(-1)[: len(s["scores"])], s["pattern"])


@every_architecture
def test_each_switch_turns_its_check_red(config) -> None:
    assert "later keys get nothing" in broken(config, no_mask=True)
    assert broken(config, split=True) == set()


@pytest.mark.parametrize("config", [GPT, LLAMA, ARCHITECTURES["parallel"]], ids=["gpt", "llama", "parallel"])
def test_switches_that_break_one_thing(config) -> None:
    assert broken(config, no_mask=True) == {"later keys get nothing"}
    assert broken(config, no_root=True) == {"q k / sqrt(c) = score"}
    assert broken(config, rotate_v=True) == ({"pattern v = z"} if config.position == "rope" else set())


@pytest.mark.parametrize("config", [GPT, LLAMA, ARCHITECTURES["sandwich"]], ids=["gpt", "llama", "sandwich"])
@pytest.mark.parametrize("switch", ["no_root", "no_mask", "rotate_v", "split"])
def test_what_a_switch_shows_is_what_python_says(config, switch: str) -> None:
    run = a_pass(config)
    shown = panel(run, Options(1, 2, **{switch: True}))
    assert not differs_in_python(run, shown, places=2)
    assert shown.facts["wrong"] is (switch != "split") and not shown.facts["fused"]
    changed = shown.facts["kl"] > 1e-6
    assert changed is (switch != "split" and not (switch == "rotate_v" and config.position != "rope"))


def test_faults_of_the_model_are_red(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "causal", lambda t, s, device: torch.ones(t, s, dtype=torch.bool))
    assert "later keys get nothing" in broken(LLAMA)
    monkeypatch.undo()

    def unpermuted(self, x, rotate, visible, cache):
        q, k, v = (self.heads(linear(x)) for linear in (self.q, self.k, self.v))
        return self.out(self.attend(q, k, v, visible, 0.0).reshape(*x.shape[:2], -1))

    monkeypatch.setattr(attention.Attention, "forward", unpermuted)
    assert "pattern v = z" in broken(GPT)


def test_a_window_hides_what_came_long_before() -> None:
    facts = panel(a_pass(ARCHITECTURES["window"]), Options(1, 0)).facts
    assert facts["visible"] == [8, 11]
    assert panel(a_pass(ARCHITECTURES["window"]), Options(1, 0, 2)).facts["visible"] == [0, 2]


def test_what_happens_to_q_and_k_is_said() -> None:
    said = {name: panel(a_pass(config), Options(1)).facts["located"] for name, config in WITH_LAYERS.items()}
    assert said["gpt"] == [] and said["llama"] == ["rotated by their position"]
    assert said["qk_norm"] == ["normed", "rotated by their position"]
    assert said["normed after rotation"] == ["rotated by their position", "normed"]
    assert said["scores by layer"] == ["q times 0.5"]


def test_a_bigram_has_no_attention() -> None:
    run = a_pass(ARCHITECTURES["bigram"])
    assert (
        panel(run, Options()).absent
        == "A bigram has no attention: each token is predicted from the one before it alone."
    )
    assert kept(run) == [Options()]
    with pytest.raises(FathomError, match="there is no head 6"):
        panel(a_pass(GPT), Options(head=6))


def test_it_travels() -> None:
    run = a_pass(LLAMA)
    about, tensors = decoded(payload("microscope", run, {"query": "3", "no_mask": "true"})[0])
    assert about["options"]["no_mask"] is True and about["facts"]["at"] == 3
    assert [check["ok"] for check in about["checks"] if check["id"] == "C1"] == [True, False]
    assert tensors["scores"].shape == (12,) and tensors["scores"].isfinite().all()
    masked = decoded(payload("microscope", run, {"query": "3"})[0])[1]["scores"]
    assert masked.isinf().tolist() == [False] * 4 + [True] * 8
    names = [source["text"].splitlines()[0] for source in about["source"]]
    assert any("def attend_otherwise" in name for name in names) and any("def forward" in name for name in names)
    shown = {(0, 0), teaching(run)[0]}  # with each change
    assert len(variants("microscope", run)) == 18 + 4 * len(shown) + 11


def test_a_file_stays_small_and_holds_the_mask_at_least() -> None:
    config = replace(LLAMA, n_layer=6, d_model=288, head_dim=48, context_length=64)
    views = kept(a_pass(config, 64))
    assert Options() in views and Options(no_mask=True) in views and len(views) < 6


@pytest.mark.parametrize("kind", ["int8", "adapted"])
def test_a_packed_and_an_adapted_model(kind: str) -> None:
    run = changed_pass(kind)
    with torch.no_grad():
        shown = panel(run, Options(1, 4))
    assert shown.ok and not differs_in_python(run, shown, places=2)
