"""Drafts never change what is written: token for token where they are not drawn, in distribution where they are."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import fathom
from fathom.errors import FathomError
from fathom.generation.generate import generate, stream
from fathom.generation.options import GenerateOptions
from fathom.generation.sampling import Samplers
from fathom.generation.speculative import Draft, accept_or_resample
from fathom.model.transformer import Transformer
from fathom.tokenizer.characters import ByteTokenizer, CharacterTokenizer
from tests.generation.models import KINDS, random_model
from tests.generation.test_generate import Ended

BYTES = ByteTokenizer()
FEW = CharacterTokenizer("abcd")
REPEATS = "the cat sat on the mat; the cat sat on the"
SAMPLERS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "greedy, penalised": {"temperature": 0, "repetition_penalty": 1.3},
    "warm": {"temperature": 0.3, "seed": 5},
    "all of them": {"temperature": 0.5, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2, "seed": 6},
    "another order": {"temperature": 0.7, "top_p": 0.8, "samplers": ("top_p", "temperature"), "seed": 7},
}
WAYS: dict[str, dict[str, Any]] = {
    "slides": {"past_context": "slide"},
    "stops": {"past_context": "stop"},
    "extends": {"past_context": "extend"},
    "no cache": {"use_cache": False},
}


class Guesses:
    """Proposes what will be written, or, at places that a pattern says, something else; keeps what it was asked."""

    nbytes = 0

    def __init__(self, script: Sequence[int], wrong: Sequence[bool]) -> None:
        self.script, self.wrong, self.asked = list(script), itertools.cycle(wrong), list[int]()

    def propose(self, text: list[int], most: int) -> Draft:
        assert text == self.script[: len(text)]
        assert 0 < most < len(self.script) - len(text), "longer than what may still come"
        self.asked.append(most)
        coming = self.script[len(text) : len(text) + most]
        return Draft([(token + 1) % 256 if next(self.wrong) else token for token in coming])


def guessed(model: Transformer, script: Sequence[int], wrong: Sequence[bool], prompt: Any, **choices: Any) -> Any:
    """A stream whose drafts are those of `Guesses`."""
    running = stream(model, BYTES, prompt, speculate="lookup", **choices)
    running.slots[0].proposer = Guesses(script, wrong)
    return running


# Token for token.


@pytest.mark.parametrize("given", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("kind", KINDS)
def test_lookup_writes_what_plain_decoding_writes(kind: str, given: dict[str, Any]) -> None:
    model, most = random_model(kind, context_length=60), {"max_new_tokens": 100}
    for prompt in ("I", REPEATS):
        running = stream(model, BYTES, prompt, speculate="lookup", **most, **given)
        (found,), (plain,) = running.collect(), generate(model, BYTES, prompt, **most, **given)
        assert (found.tokens, found.text) == (plain.tokens, plain.text)
        torch.testing.assert_close(found.logprobs, plain.logprobs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("wrong", [[0], [1], [0, 0, 0, 1], [0, 1, 1, 0, 0, 0, 0, 0, 0, 1], [0] * 20 + [1]])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_whatever_is_guessed_it_writes_what_plain_decoding_writes(way: dict[str, Any], wrong: list[bool]) -> None:
    """Over the end of the context too, at all the lengths of drafts that lead there."""
    model = random_model("llama", context_length=40)
    for given in (SAMPLERS["greedy"], SAMPLERS["all of them"]):
        (plain,) = generate(model, BYTES, "To be", max_new_tokens=100, **way, **given)
        running = guessed(model, [*b"To be", *plain.tokens], wrong, "To be", max_new_tokens=100, **way, **given)
        (found,) = running.collect()
        assert (found.tokens, found.text, found.finish_reason) == (plain.tokens, plain.text, plain.finish_reason)
        torch.testing.assert_close(found.logprobs, plain.logprobs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("given", SAMPLERS.values(), ids=SAMPLERS)
def test_a_greedy_draft_model_changes_nothing_and_itself_is_always_right(given: dict[str, Any]) -> None:
    model, other = random_model("llama"), random_model("gpt")
    if given["temperature"] == 0:
        plain = generate(model, BYTES, "To be", max_new_tokens=80, **given)
        assert generate(model, BYTES, "To be", draft=other, max_new_tokens=80, **given)[0].tokens == plain[0].tokens
    running = stream(model, BYTES, "To be", draft=model, max_new_tokens=80, **given)
    list(running)
    assert running.stats.accepted == running.stats.proposed > 60


@pytest.mark.parametrize("kind", ["bigram", "gpt"])
def test_a_draft_model_with_a_smaller_context_goes_on_with_the_end_of_the_text(kind: str) -> None:
    """A bigram needs no more than that to be right; learned positions end where the context does."""
    model, other = random_model(kind), random_model(kind, context_length=24)
    for prompt in ("I", "x" * 60):
        plain = generate(model, BYTES, prompt, max_new_tokens=90, temperature=0)
        running = stream(model, BYTES, prompt, draft=other, max_new_tokens=90, temperature=0)
        assert running.collect()[0].tokens == plain[0].tokens
        assert kind != "bigram" or running.stats.accepted == running.stats.proposed > 70


@pytest.mark.parametrize("prompt", ["Once upon a time", "Lily had a dog. Lily had a dog. Lily had", ""])
def test_a_trained_model_writes_the_same_story(shared_data: Path, prompt: str) -> None:
    model, tokenizer = fathom.load(shared_data / "stories260K" / "stories260K.bin")
    other = random_model("llama", tokenizer.vocab_size)
    plain = generate(model, tokenizer, prompt, max_new_tokens=250, temperature=0)
    running = stream(model, tokenizer, prompt, max_new_tokens=250, temperature=0, speculate="lookup")
    assert running.collect()[0].tokens == plain[0].tokens
    assert running.stats.accepted > 20
    assert generate(model, tokenizer, prompt, draft=other, max_new_tokens=250, temperature=0)[0].text == plain[0].text


# In distribution.


def uniform(monkeypatch: pytest.MonkeyPatch, numbers: Sequence[float]) -> None:
    """What is drawn at random from now on."""
    coming = iter(numbers)
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.tensor([next(coming)], dtype=torch.float64))


TENTHS = [
    ([2, 5, 3], [4, 4, 2]),
    ([3, 0, 7], [5, 4, 1]),
    ([10, 0, 0], [2, 3, 5]),
    ([0, 1, 9], [10, 0, 0]),
    ([4, 4, 2], [4, 4, 2]),
    ([1, 2, 3, 4], [4, 3, 2, 1]),
]


@pytest.mark.parametrize("tenths, drafted", TENTHS, ids=str)
def test_every_way_a_draft_can_be_settled_adds_up_to_p(
    monkeypatch: pytest.MonkeyPatch, tenths: list[int], drafted: list[int]
) -> None:
    """Summed over the draft and both random numbers, each on a grid on which every threshold lies."""
    p, q = torch.tensor(tenths, dtype=torch.float64) / 10, torch.tensor(drafted, dtype=torch.float64) / 10
    grid = [(place + 0.5) / 60 for place in range(60)]
    found = torch.zeros_like(p)
    for token, first in itertools.product(q.nonzero().flatten().tolist(), grid):
        results = Counter[int]()
        for second in grid:
            uniform(monkeypatch, [first, second])
            results[int(accept_or_resample(p.log()[None], [torch.Generator()], token=token, q=q))] += 1
        for result, count in results.items():
            found[result] += q[token] * count / len(grid) ** 2
    torch.testing.assert_close(found, p, atol=1e-12, rtol=0)


def test_p_and_q_that_differ_by_rounding_alone_leave_p() -> None:
    """Not kept by a hair, and nothing that p has more of."""
    p = torch.tensor([0.5, 0.5], dtype=torch.float64)
    q = torch.tensor([0.5 + 1e-9, 0.5 + 1e-9], dtype=torch.float64)
    drawn = Counter(
        int(accept_or_resample(p.log()[None], [torch.Generator().manual_seed(i)], token=0, q=q * 4)) for i in range(400)
    )
    assert min(drawn[0], drawn[1]) > 60


def exact(
    model: Transformer, text: tuple[int, ...], left: int, sampled: Any
) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every continuation of `left` tokens and its probability, from plain passes over the whole text."""
    if not left:
        yield (), 1.0
        return
    seen = torch.zeros(1, len(FEW.characters), dtype=torch.bool)
    seen[0, list(text)] = True
    with torch.no_grad():
        chances = sampled(model(torch.tensor([text]))[:, -1], seen).double().softmax(-1)[0].tolist()
    for token, chance in enumerate(chances):
        if chance:
            for rest, more in exact(model, (*text, token), left - 1, sampled):
                yield (token, *rest), chance * more


def worst(found: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> float:
    """How many standard deviations chi-squared is above its mean; infinite for what cannot be.

    Cells with fewer than five expected are one.
    """
    n = sum(found.values())
    if any(text not in expected for text in found):
        return math.inf
    rare = [text for text, chance in expected.items() if n * chance < 5]
    cells = [(found[text], n * chance) for text, chance in expected.items() if n * chance >= 5]
    if rare:
        cells.append((sum(found[text] for text in rare), n * sum(expected[text] for text in rare)))
    chi_squared = sum((count - mean) ** 2 / mean for count, mean in cells)
    return (chi_squared - (len(cells) - 1)) / math.sqrt(2 * (len(cells) - 1))


DRAWN: dict[str, dict[str, Any]] = {
    "plain": {},
    "flat": {"temperature": 1.7},
    "cut": {"temperature": 0.9, "top_p": 0.9, "top_k": 3},
}


def tiny(noise: float, **changes: Any) -> Transformer:
    """A vocabulary of four; with noise a model that is often wrong about the one without."""
    model = random_model("llama", 4, d_model=8, n_head=2, **changes)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight, size in ((model.embed.weight, 1.0), (model.unembed.weight, 0.4)):
            weight.normal_(std=size).add_(torch.randn_like(weight), alpha=noise * size)
    return model


@pytest.mark.parametrize("given", DRAWN.values(), ids=DRAWN)
def test_a_long_text_from_drawn_drafts_has_the_transitions_of_its_model(given: dict[str, Any]) -> None:
    """A bigram: what follows a token hangs on it alone, so one text holds thousands of draws from each distribution."""
    model, other = tiny(0, n_layer=0, context_length=30), tiny(0.7, n_layer=0, context_length=30)
    running = stream(model, FEW, "a", draft=other, max_new_tokens=2000, seed=1, **given)
    tokens = (0, *running.collect()[0].tokens)
    assert 0.2 < running.stats.accepted / (running.stats.proposed or 0) < 0.8
    for before in range(4):
        found = Counter((b,) for a, b in itertools.pairwise(tokens) if a == before)
        assert worst(found, dict(exact(model, (before,), 1, Samplers(GenerateOptions(**given))))) < 4


def test_texts_from_drawn_drafts_are_as_frequent_as_they_should_be() -> None:
    """Whole texts of four tokens, each hanging on all before it, against their exact probabilities."""
    model, other, given = tiny(0, n_layer=1), tiny(0.7, n_layer=1), {"repetition_penalty": 1.6, "min_p": 0.05}
    found = Counter[tuple[int, ...]]()
    for seed in range(600):
        found[generate(model, FEW, "ab", draft=other, max_new_tokens=4, seed=seed, **given)[0].tokens] += 1
    expected = dict(exact(model, (0, 1), 4, Samplers(GenerateOptions(**given))))
    assert math.isclose(sum(expected.values()), 1)
    assert worst(found, expected) < 4


# Where it ends, and what is told.


def test_an_end_inside_a_draft_is_an_end() -> None:
    model, ended = random_model("llama"), Ended(None, 0)
    (free,) = generate(model, BYTES, "To be", max_new_tokens=60, temperature=0)
    for place in range(3, 12):
        ended.special = type(ended.special)(None, free.tokens[place])
        (plain,) = generate(model, ended, "To be", max_new_tokens=60, temperature=0)
        running = stream(model, ended, "To be", max_new_tokens=60, temperature=0, speculate="lookup")
        running.slots[0].proposer = Guesses([*b"To be", *free.tokens], [False])
        assert running.collect() == [approximately(plain)] and plain.finish_reason == "eos"
        assert running.stats.decode_tokens == len(plain.tokens) - 1


class approximately:
    """A completion up to the last bits of its log-probabilities."""

    def __init__(self, completion: Any) -> None:
        self.completion = completion

    def __eq__(self, other: object) -> bool:
        mine, theirs = vars(self.completion), vars(other)
        close = pytest.approx(mine["logprobs"], abs=1e-4) == theirs["logprobs"]
        return close and mine | {"logprobs": None} == theirs | {"logprobs": None}


@pytest.mark.parametrize("most", range(1, 12))
def test_stop_strings_and_the_last_token_come_where_they_come_without_drafts(most: int) -> None:
    model = random_model("llama")
    (free,) = generate(model, BYTES, "To be", max_new_tokens=60, temperature=0)
    for stop in (free.text[most : most + 2], free.text[most + 1]):
        given = {"temperature": 0, "stop": stop, "max_new_tokens": 2 * most}
        (plain,) = generate(model, BYTES, "To be", **given)
        (found,) = guessed(model, [*b"To be", *free.tokens], [False], "To be", **given).collect()
        assert approximately(plain) == found


def test_drafts_grow_with_what_is_kept_and_shrink_to_it() -> None:
    model = random_model("llama")
    plain = generate(model, BYTES, "To be", max_new_tokens=100, temperature=0)[0].tokens
    wrong = [False] * 4 + [False] * 8 + [False, False, True] + [False] * 13 + [True] * 2 + [False] * 200
    running = guessed(model, [*b"To be", *plain], wrong, "To be", max_new_tokens=100, temperature=0)
    assert running.collect()[0].tokens == plain
    assert running.slots[0].proposer.asked[:7] == [4, 8, 16, 2, 1, 2, 4]


def test_facts_tell_what_was_kept() -> None:
    model = random_model("llama")
    running = stream(model, BYTES, REPEATS, max_new_tokens=100, temperature=0, speculate="lookup")
    list(running)
    stats = running.stats
    assert stats.decode_tokens == 99 == stats.passes + stats.accepted and stats.proposed >= stats.accepted > 0
    assert f"{stats.accepted} of {stats.proposed} draft tokens accepted, {99 / stats.passes:.2f} tokens per pass" in (
        stats.describe()
    )
    plain = stream(model, BYTES, REPEATS, max_new_tokens=100)
    list(plain)
    assert plain.stats.passes == 99 and "draft" not in plain.stats.describe()
    drafted = stream(model, BYTES, "ab", max_new_tokens=30, draft=random_model("gpt"))
    list(drafted)
    assert drafted.stats.cache_bytes == 2 * 2 * 2 * 8 * 31 * 4 + 2 * 2 * 4 * 8 * 32 * 4  # 2 L g c T itemsize


def test_several_rows_do_without() -> None:
    model = random_model("llama")
    for given in ({"speculate": "lookup"}, {"draft": model}):
        plain = generate(model, BYTES, ["ab", "c"], num_samples=2, seed=1, max_new_tokens=20)
        running = stream(model, BYTES, ["ab", "c"], num_samples=2, seed=1, max_new_tokens=20, **given)
        assert running.collect() == plain and running.stats.proposed is None


def test_wrong_choices_are_one_line() -> None:
    model = random_model("llama")
    with pytest.raises(FathomError, match="speculate is 'lookup' and there is a draft model"):
        stream(model, BYTES, "a", speculate="lookup", draft=model)
    for size in (250, 500):
        with pytest.raises(FathomError, match=f"the draft model has {size} tokens and the model 256"):
            stream(model, BYTES, "a", draft=random_model("gpt", size))
    assert len(generate(model, BYTES, "a", draft=random_model("gpt", 300), max_new_tokens=9)[0].tokens) == 9
    broken = random_model("gpt")
    with torch.no_grad():
        broken.embed.weight[97] = math.nan
    with pytest.raises(FathomError, match="the draft model's logits are not finite"):
        generate(model, BYTES, "a", draft=broken)


def test_a_draft_model_in_training_is_asked_without_dropout_and_left_in_training() -> None:
    model, other = random_model("gpt"), random_model("gpt", dropout=0.5).train()
    running = stream(model, BYTES, "a", draft=other, max_new_tokens=40, temperature=0)
    list(running)
    assert other.training and running.stats.accepted == running.stats.proposed
