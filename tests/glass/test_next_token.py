"""P1: probabilities are the softmax over all tokens; the sampler's column renormalises its own set alone."""

from dataclasses import replace

import pytest
import torch

import fathom
from fathom.errors import FathomError
from fathom.glass import next_token
from fathom.glass.next_token import Options, kept, panel
from fathom.glass.panel import Panel
from fathom.glass.panels import payload
from fathom.glass.passes import Pass, ids_of
from fathom.model.config import ModelConfig
from fathom.tokenizer.characters import ByteTokenizer
from tests.architectures import ARCHITECTURES, LLAMA
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


def bytes_model() -> ModelConfig:
    return replace(LLAMA, vocab_size=256, context_length=60)


def text_pass(text: str, seed: int = 0) -> Pass:
    """A text through a random model that reads bytes."""
    run = a_pass(bytes_model(), tokenizer=ByteTokenizer())
    return Pass(run.subject, torch.tensor([[*text.encode()]]), seed)


def test_draws_are_those_of_generation() -> None:
    run = text_pass("Once upon", seed=5)
    shown = panel(run, Options(draws=90, temperature=0.7, top_k=30))
    options = {"num_samples": 90, "max_new_tokens": 1, "seed": 5, "temperature": 0.7, "top_k": 30}
    made = [one.tokens[0] for one in fathom.generate(run.model, run.subject.tokenizer, "Once upon", **options)]
    ids, counts = shown.series["ids"].values.tolist(), shown.series["draws"].values
    assert counts.tolist() == [made.count(id) for id in ids] and counts.max() > 1
    assert shown.series["rest_draws"].values.tolist() == [0] and not differs_in_python(run, shown)


def test_draws_are_reproducible_and_add_up() -> None:
    run = text_pass("Once")

    def draws(seed: int, n: int) -> Panel:
        return panel(Pass(run.subject, run.ids, seed), Options(draws=n))

    one, same, other, more = draws(1, 100), draws(1, 100), draws(500, 100), draws(1, 200)
    assert torch.equal(one.series["draws"].values, same.series["draws"].values)
    assert not torch.equal(one.series["draws"].values, other.series["draws"].values)
    assert (more.series["draws"].values >= one.series["draws"].values).all()
    for shown, n in ((one, 100), (more, 200)):
        assert shown.series["draws"].values.sum() + shown.series["rest_draws"].values[0] == n
    assert "draws" not in draws(1, 0).series
    with pytest.raises(FathomError, match="draws is -1; expected 0 to 10,000"):
        draws(1, -1)


def test_a_bar_that_is_appended_is_read_as_that_token() -> None:
    run = text_pass("Onc")
    facts = panel(run, Options()).facts
    told = {one["id"]: one for one in facts["tokens"]}
    assert facts["before"] == "Onc" and len(told) == 50
    assert all(one["appends"] is (id < 128) for id, one in told.items())  # others are parts of a character
    some = next(one for one in told.values() if one["appends"])
    assert ids_of(run.subject, facts["before"] + some["text"]) == [*b"Onc", some["id"]]
    assert panel(run, Options(query=0)).facts["before"] == "O"


def test_without_a_tokenizer_ids_are_appended() -> None:
    run = a_pass(LLAMA)
    facts = panel(run, Options()).facts
    assert facts["before"].split() == [str(id) for id in run.ids[0].tolist()]
    assert all(one["appends"] for one in facts["tokens"])


def test_a_file_holds_the_next_token_everywhere() -> None:
    run = text_pass("Once upon")
    views = kept(run)
    assert views[0] == Options() and {one.query for one in views} == {-1, *range(8)}


def test_beside_another_model_both_have_the_same_bars() -> None:
    a, b = a_pass(LLAMA), a_pass(LLAMA)
    b = Pass(b.subject, a.ids)
    a.beside, b.beside = b, a
    one, other = panel(a, Options()), panel(b, Options())
    assert torch.equal(one.series["ids"].values, other.series["ids"].values)
    assert not torch.equal(one.series["p"].values, other.series["p"].values)
    assert one.ok and other.ok and not differs_in_python(a, one)
