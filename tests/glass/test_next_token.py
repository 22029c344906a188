"""P1: probabilities are the softmax over all tokens; the sampler's column renormalises its own set alone."""

import pytest
import torch

from fathom.glass import next_token
from fathom.glass.next_token import Options, panel
from fathom.glass.panels import payload
from tests.architectures import ARCHITECTURES
from tests.glass.panels import a_pass, decoded, differs_in_python

every_architecture = pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())


@every_architecture
def test_bars_and_rest_are_the_softmax(config) -> None:
    run = a_pass(config)
    shown = panel(run, Options())
    expected = run.model(run.ids)[0, -1].double().softmax(-1)
    p, ids = shown.series["p"].values, shown.series["ids"].values
    assert torch.allclose(p, expected[ids], atol=1e-6)
    assert abs(p.sum() + shown.series["rest"].values[0] - 1) < 1e-6
    assert shown.ok and not differs_in_python(run, shown)


def test_top_k_changes_only_the_sampler() -> None:
    run = a_pass(ARCHITECTURES["llama"]) if "llama" in ARCHITECTURES else a_pass(next(iter(ARCHITECTURES.values())))
    plain, cut = panel(run, Options()), panel(run, Options(top_k=3))
    assert torch.equal(plain.series["p"].values, cut.series["p"].values)
    assert (cut.series["sampled"].values > 0).sum() == 3
    warm = panel(run, Options(temperature=2.0))
    ids = warm.series["ids"].values
    expected = (run.logits[-1].double() / 2).softmax(-1)[ids]
    assert torch.allclose(warm.series["sampled"].values, expected, atol=1e-6)
    assert cut.ok and warm.ok


def test_a_softmax_over_the_bars_alone_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    """C15's fault: probabilities of the likeliest tokens alone."""
    run = a_pass(next(iter(ARCHITECTURES.values())))

    def wrong(logits: torch.Tensor) -> torch.Tensor:
        kept = logits >= logits.topk(5).values[..., -1:]
        return logits.double().masked_fill(~kept, float("-inf")).softmax(-1)

    monkeypatch.setattr(next_token, "probabilities", wrong)
    assert not panel(run, Options()).ok


def test_it_travels() -> None:
    run = a_pass(next(iter(ARCHITECTURES.values())))
    blob, shown = payload("next-token", run, {"top_k": "3"})
    about, tensors = decoded(blob)
    assert about["panel"] == "next-token" and about["options"]["top_k"] == 3 and about["absent"] is None
    assert torch.equal(tensors["p"], shown.series["p"].values.float())
    assert about["source"][0]["text"].startswith("def probabilities") and all(check["ok"] for check in about["checks"])
