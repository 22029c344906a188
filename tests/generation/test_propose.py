"""Drafts are what they should be: a copy of what followed before, or what the draft model says of the text in view."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.backend import one_piece
from fathom.errors import FathomError
from fathom.generation.options import SamplingOptions
from fathom.generation.sampling import Samplers
from fathom.generation.speculative import LONGEST, SHORTEST, DraftModel, PromptLookup, check_tokens
from fathom.model.transformer import Transformer
from fathom.tokenizer.characters import ByteTokenizer, CharacterTokenizer
from tests.generation.models import KINDS, random_model


def lookup(text: list[int], most: int) -> list[int]:
    return PromptLookup().propose(text, most).tokens


@pytest.mark.parametrize(
    "text, most, draft",
    [
        ("abcd ab", 3, "cd "),
        ("abcd abcx ab", 2, "cx"),  # the last time
        ("xabcd yabce abc", 1, "e"),
        ("1234x 34y 234", 1, "x"),  # the longest end, though another came later
        ("abcabc", 7, "abcabca"),  # what is copied may reach into itself
        ("aaa", 4, "aaaa"),
        ("abcd ab", 0, ""),
        ("abcdefg", 4, ""),
        ("bab", 4, ""),  # one token alone says too little
        ("a", 4, ""),
        ("", 4, ""),
    ],
)
def test_what_followed_before_is_proposed(text: str, most: int, draft: str) -> None:
    assert bytes(lookup(list(text.encode()), most)).decode() == draft


@settings(max_examples=200, derandomize=True)
@given(text=st.lists(st.integers(0, 2), max_size=40), large=st.booleans())
def test_lookup_is_the_search_written_out(text: list[int], large: bool) -> None:
    text = [token * (500_000 if large else 1) + 55_000 for token in text]  # surrogates and beyond are letters too
    expected: list[int] = []
    for n in range(min(LONGEST, len(text) - 1), SHORTEST - 1, -1):
        starts = [i for i in range(len(text) - n) if text[i : i + n] == text[-n:]]
        if starts:
            expected = text[starts[-1] + n :][:5]
            break
    assert lookup(text, 5)[: len(expected)] == expected
    assert len(lookup(text, 5)) == (5 if expected else 0)
    growing = PromptLookup()
    for end in range(len(text)):
        growing.propose(text[:end], 3)
    assert growing.propose(text, 5).tokens == lookup(text, 5)


def plain(model: Transformer, view: list[int], count: int) -> list[int]:
    ids = list(view)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(view) :]


def drafter(model: Transformer, longest: int, **options: float) -> DraftModel:
    samplers = Samplers(SamplingOptions(**options))  # type: ignore[arg-type]
    return DraftModel(model, samplers, torch.Generator().manual_seed(1), 256, longest, 7)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_draft_model_goes_on_from_the_text_whatever_became_of_its_drafts(kind: str) -> None:
    """All kept, some, none, and a longer leap; past its own context from the newer half of it."""
    model = random_model(kind, context_length=30)
    made, text, start = drafter(model, 200, temperature=0), list(b"To be, or"), 0
    for step, most in enumerate([4, 3, 0, 5, 1, 2, 6, 4, 4, 4, 16, 16, 3, 3]):
        draft = made.propose(text, most)
        if len(text) - start + most > 30:
            start = len(text) - 15
        view = text[start:]
        assert draft.tokens == plain(model, view, min(most, 30 - len(view) + 1))
        kept = [most, 1, 0, 2][step % 4]
        text = [*text, *draft.tokens[:kept], 40 + step]
    assert start > 15 and made.view.cache.length <= 30


@torch.no_grad()
def test_q_is_what_each_token_was_drawn_from() -> None:
    """After the samplers, which know the text and the draft before it."""
    model, text = random_model("llama"), list(b"To be")
    made = drafter(model, 100, temperature=0.8, top_k=9, repetition_penalty=1.4)
    draft = made.propose(text, 5)
    assert draft.q is not None and draft.q.shape == (5, 256)
    for place, token in enumerate(draft.tokens):
        ids = [*text, *draft.tokens[:place]]
        scores = made.samplers(
            model(torch.tensor([ids]))[:, -1], torch.zeros(1, 256).bool().index_fill(1, torch.tensor(ids), True)
        )
        torch.testing.assert_close(draft.q[place], scores.double().softmax(-1)[0], atol=1e-5, rtol=1e-4)
        assert draft.q[place, token] > 0


def test_a_draft_models_cache_must_fit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_piece, "free_memory", lambda device: 1000)
    with pytest.raises(FathomError, match="are free; generate fewer"):
        drafter(random_model("llama"), 100)


def test_another_vocabulary_is_told_by_its_first_other_token() -> None:
    check_tokens(ByteTokenizer(), ByteTokenizer())
    with pytest.raises(FathomError, match="another vocabulary: token 1 is 'd' there and 'b' in the model"):
        check_tokens(CharacterTokenizer("abc"), CharacterTokenizer("adc"))
