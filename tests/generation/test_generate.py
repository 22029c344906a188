"""The loop: greedy with and without cache, in a batch and alone; where and why it ends; what its pieces say."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fathom.errors import ContextOverflow, FathomError, OutsideVocabulary
from fathom.generation.generate import Stream, first_id, generate, prompt_ids, stream
from fathom.generation.options import Bias
from fathom.model.transformer import Transformer
from fathom.tokenizer.bpe import BPETokenizer
from fathom.tokenizer.characters import ByteTokenizer, CharacterTokenizer
from fathom.tokenizer.protocol import Special
from tests.generation.models import CONTEXT, KINDS, random_model

BYTES = ByteTokenizer()
PROMPTS = ["I", "Once upon a time", "KING RICHARD III:\nNow is the winter of our discontent", "\u20ac"]
GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 64}


class Ended(ByteTokenizer):
    """Bytes in which 0 begins and ends a document, or only ends it."""

    def __init__(self, bos: int | None, eos: int | None) -> None:
        self.special = Special(bos, eos, prefix=() if bos is None else (bos,))


class Scripted(Transformer):
    """Gives the tokens of a script almost all of the probability, whatever it reads."""

    def __init__(self, script: bytes) -> None:
        super().__init__(random_model("bigram").config)
        self.script, self.read = script, 0

    def hidden(self, ids: Tensor, cache: Any = None) -> Tensor:
        cache.advance(ids.shape[1])
        self.read += 1
        return torch.full((*ids.shape, 1), float(self.script[min(self.read, len(self.script)) - 1]))

    def __getattr__(self, name: str) -> Any:
        return self.say if name == "unembed" else super().__getattr__(name)

    def say(self, hidden: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(hidden[..., 0].long(), 256) * 60.0


def plain_greedy(model: Transformer, prompt: str, count: int) -> list[int]:
    """The argmax of a full pass, again and again: nothing of the package but the model."""
    ids = list(prompt.encode())
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt.encode()) :]


@torch.no_grad()
def test_penalties_count_new_tokens_of_their_own_row() -> None:
    """Those of the prompt are not counted."""
    model, given = random_model("llama"), {"presence_penalty": 0.6, "frequency_penalty": 0.5}
    prompts, new = ["I I I I", "a rose is a rose"], 30
    for prompt, completion in zip(prompts, generate(model, BYTES, prompts, temperature=0, max_new_tokens=new, **given)):
        ids, counts = list(prompt.encode()), torch.zeros(256)
        for _ in range(new):
            logits = model(torch.tensor([ids]))[0, -1] - 0.5 * counts - 0.6 * (counts > 0)
            ids.append(int(logits.argmax()))
            counts[ids[-1]] += 1
        assert list(completion.tokens) == ids[-new:]
    (never,) = generate(model, BYTES, "I", temperature=0, max_new_tokens=20, logit_bias=(Bias(ids[-1], -100.0),))
    assert ids[-1] not in never.tokens
    with pytest.raises(OutsideVocabulary, match="logit_bias names token 256; expected 0 to 255"):
        generate(model, BYTES, "I", logit_bias=(Bias(256, 1.0),))


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_is_one_thing_with_cache_without_in_a_batch_and_in_chunks(kind: str) -> None:
    model = random_model(kind)
    expected = [plain_greedy(model, prompt, 64) for prompt in PROMPTS]
    assert len({tuple(tokens) for tokens in expected}) == len(PROMPTS)  # else a mixed-up row would not show
    ways: list[list[Any]] = [
        generate(model, BYTES, PROMPTS, **GREEDY),
        generate(model, BYTES, PROMPTS, prefill_chunk=5, **GREEDY),
        generate(model, BYTES, PROMPTS, use_cache=False, **GREEDY),
        [generate(model, BYTES, prompt, **GREEDY)[0] for prompt in PROMPTS],
    ]
    for completions in ways:
        assert [list(completion.tokens) for completion in completions] == expected


@pytest.mark.parametrize("kind", KINDS)
def test_sliding_is_one_thing_with_cache_without_and_in_a_batch(kind: str) -> None:
    model = random_model(kind, context_length=60)
    given = GREEDY | {"max_new_tokens": 150}
    batch = generate(model, BYTES, PROMPTS, **given)
    alone = [generate(model, BYTES, text, **given)[0] for text in PROMPTS]
    plain = generate(model, BYTES, PROMPTS, use_cache=False, **given)
    assert [c.tokens for c in batch] == [c.tokens for c in alone] == [c.tokens for c in plain]
    assert {c.finish_reason for c in batch} == {"length"} and len(batch[0].tokens) == 150


def test_samples_of_one_prompt_differ_and_each_is_that_of_its_own_seed() -> None:
    model = random_model("llama")
    four = generate(model, BYTES, "To be", num_samples=4, seed=10, max_new_tokens=20)
    assert len({c.tokens for c in four}) == 4 and [c.row for c in four] == [0, 1, 2, 3]
    assert generate(model, BYTES, "To be", seed=12, max_new_tokens=20)[0].tokens == four[2].tokens
    assert [c.prompt for c in generate(model, BYTES, ["a", "b"], num_samples=2, max_new_tokens=1)] == list("aabb")


def test_without_a_seed_a_new_one_is_drawn_and_told() -> None:
    model = random_model("llama")
    first, second = (stream(model, BYTES, "a", max_new_tokens=20) for _ in range(2))
    tokens = first.collect()[0].tokens
    assert first.stats.seed != second.stats.seed
    assert generate(model, BYTES, "a", max_new_tokens=20, seed=first.stats.seed)[0].tokens == tokens


def test_logprobs_are_the_models_own_whatever_the_samplers_do() -> None:
    """C15: over the whole vocabulary, in float64, from one plain pass."""
    model = random_model("gpt")
    samplers = {"top_k": 5, "temperature": 0.3, "repetition_penalty": 1.3}
    (found,) = generate(model, BYTES, "abc", max_new_tokens=12, seed=1, **samplers)
    with torch.no_grad():
        logits = model(torch.tensor([[*b"abc", *found.tokens]]))[0, 2:-1].double().numpy()
    every = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(found.logprobs, every[np.arange(12), found.tokens], atol=1e-5)


def test_the_repetition_penalty_knows_prompt_and_new_tokens_of_its_own_row() -> None:
    """So strong a penalty lets a token come twice only when no other has a logit above 0."""
    model = random_model("bigram").requires_grad_(False)
    for row in generate(model, BYTES, ["abc", "xyz"], repetition_penalty=1e6, max_new_tokens=50, temperature=0):
        ids = [*row.prompt.encode(), *row.tokens]
        for place in range(3, len(ids)):
            scores = model(torch.tensor([ids[place - 1 : place]]))[0, -1]
            for old in set(ids[:place]):
                scores[old] *= 1e-6 if scores[old] > 0 else 1e6
            assert ids[place] == scores.argmax()


# Where it ends.


@pytest.mark.parametrize("kind", ["gpt", "llama"])
def test_stop_at_a_full_context_has_read_every_position(kind: str) -> None:
    """159 tokens of 160: one more is read, and the one after that is said but needs no position."""
    (found,) = generate(random_model(kind), BYTES, "a" * 159, past_context="stop", **GREEDY)
    assert (len(found.tokens), found.finish_reason) == (2, "length")


def test_rope_reads_on_beyond_its_context_when_asked() -> None:
    model = random_model("llama", context_length=16)
    long = random_model("llama", context_length=500)
    (found,) = generate(model, BYTES, "x" * 30, past_context="extend", **GREEDY)
    assert list(found.tokens) == plain_greedy(long, "x" * 30, 64)


def test_too_long_a_prompt_is_refused_before_anything_runs() -> None:
    with pytest.raises(ContextOverflow, match="161 tokens and the context is 160"):
        stream(random_model("llama"), BYTES, "a" * (CONTEXT + 1))


def test_eos_ends_a_row_and_adds_no_text() -> None:
    (found,) = generate(Scripted(b"ab\x00cd"), Ended(None, 0), "x", **GREEDY)
    assert (found.text, found.tokens, found.finish_reason) == ("ab", (97, 98, 0), "eos")


def test_a_stop_string_ends_a_row_and_is_not_shown() -> None:
    pieces = list(stream(Scripted(b"one\n\ntwo"), BYTES, "x", stop="\n\nt", **GREEDY))
    assert [piece.text for piece in pieces] == ["o", "n", "e", "", "", ""]
    assert [piece.finish_reason for piece in pieces] == [None] * 5 + ["stop"]


def test_what_was_held_back_is_shown_at_the_end() -> None:
    """A beginning of the stop string and half a character, when there is no room for the rest."""
    (found,) = generate(Scripted("ab€".encode()), BYTES, "x", stop=["bc", "b€!"], temperature=0, max_new_tokens=4)
    assert (found.text, found.finish_reason) == ("ab\ufffd", "length")


def test_rows_that_end_early_leave_the_others_as_they_were() -> None:
    model = random_model("llama")
    free = generate(model, BYTES, PROMPTS, **GREEDY)
    stop = free[1].text[5:8]
    for one, other in zip(generate(model, BYTES, PROMPTS, stop=stop, **GREEDY), free):
        assert other.tokens[: len(one.tokens)] == one.tokens
        assert one.text == other.text.split(stop)[0]


# What it starts from.


@pytest.mark.parametrize(
    "tokenizer, text, expected",
    [
        (Ended(1, 0), "", [1]),
        (Ended(1, 0), "a", [1, 97]),
        (Ended(None, 0), "", [0]),
        (Ended(None, 0), "a", [97]),
        (BYTES, "", [10]),
        (CharacterTokenizer("ab\n"), "", [2]),
        (CharacterTokenizer("ab"), "", [0]),
        (BYTES, [], [10]),
        (Ended(1, 0), [97], [97]),
    ],
)
def test_what_the_model_reads_of_a_prompt(tokenizer: Any, text: Any, expected: list[int]) -> None:
    assert prompt_ids(tokenizer, text, 256) == expected


def test_an_empty_prompt_of_a_bpe_starts_as_a_document() -> None:
    bpe = BPETokenizer.train(["a b a b a b"], 258)
    assert first_id(bpe) == bpe.eos
    (found,) = generate(random_model("gpt", bpe.vocab_size), bpe, "", **GREEDY)
    assert found.prompt == "" and found.text.startswith(bpe.decode(found.tokens[:5]))


def test_ids_outside_the_models_vocabulary_are_named() -> None:
    with pytest.raises(OutsideVocabulary, match="token 200; ids run from 0 to 99"):
        stream(random_model("llama", vocab_size=100), BYTES, [[5, 200]])


def test_a_padded_vocabulary_never_speaks_beyond_the_tokenizer() -> None:
    rows = generate(random_model("bigram", vocab_size=900), BYTES, "a", num_samples=20, temperature=3.0)
    assert max(max(row.tokens) for row in rows) < 256


# How it behaves.


def test_unknown_options_and_broken_weights_are_one_line() -> None:
    model = random_model("llama")
    with pytest.raises(FathomError, match="did you mean top_k"):
        stream(model, BYTES, "a", topk=3)
    with torch.no_grad():
        model.embed.weight[97] = math.nan
    with pytest.raises(FathomError, match="not finite"):
        generate(model, BYTES, "a")


def test_a_model_in_training_is_asked_without_dropout_and_left_in_training() -> None:
    model = random_model("gpt", dropout=0.5)
    expected = generate(model, BYTES, "a", **GREEDY)[0].tokens
    running = stream(model.train(), BYTES, "a", **GREEDY)
    tokens = []
    for piece in running:
        assert model.training and torch.is_grad_enabled()
        tokens.append(piece.token)
    assert tuple(tokens) == expected


def test_the_global_random_state_is_left_alone() -> None:
    model = random_model("llama")
    before = torch.get_rng_state()
    generate(model, BYTES, "a", seed=1, max_new_tokens=5)
    assert torch.equal(before, torch.get_rng_state())


def test_facts_count_what_was_done() -> None:
    model = random_model("llama", context_length=32)
    running: Stream = stream(model, BYTES, ["abcd", "ef"], num_samples=3, max_new_tokens=40, seed=4)
    list(running)
    stats = running.stats
    assert (stats.seed, stats.prompt_tokens, stats.decode_tokens) == (4, 6, 6 * 39)
    assert stats.cache_bytes == 2 * 2 * 2 * 8 * 32 * 6 * 4  # 2 L g c T b itemsize
    assert stats.dropped == 6 * 17  # of 33 the newer 16 stay
    assert stats.prefill_rate > 0 and stats.decode_rate > 0
    assert "tokens were dropped" in stats.describe()


def test_no_prompts_are_no_completions() -> None:
    assert generate(random_model("llama"), BYTES, []) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_greedy_on_a_gpu_is_greedy_on_the_cpu() -> None:
    model = random_model("llama")
    expected = [c.tokens for c in generate(model, BYTES, PROMPTS, **GREEDY)]
    assert [c.tokens for c in generate(model.cuda(), BYTES, PROMPTS, **GREEDY)] == expected
