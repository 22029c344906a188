"""What an engine writes for a request is what it writes for it alone, whatever joined or left; nothing is left over."""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fathom.backend.inference import prepare_for_inference
from fathom.errors import ContextOverflow, FathomError
from fathom.generation.generate import generate
from fathom.generation.sampling import top_p
from fathom.generation.slots import Slot
from fathom.generation.text import Piece
from fathom.native.build import library
from fathom.quant.model import quantize_model
from tests.generation.engines import BYTES, alone, ask, empty, louder, made, run, some, written
from tests.generation.models import CONTEXT, KINDS, random_model


@pytest.mark.parametrize("kind", ["gpt", "llama"])
def test_64_rows_that_join_and_leave_are_what_they_are_alone(kind: str) -> None:
    """Every token and every bit of its log-probability, with two adapters, all samplers and shared prefixes."""
    model, order = random_model(kind), random.Random(kind)
    adapters = louder(model)
    requests = [replace(request, ids=request.ids[:4]) for request in some(order, 70, (25, 35))]
    requests += some(order, 20, (1, 30))
    expected = [alone(model, request, choose_adapters=adapters) for request in requests]
    engine, slots, pieces = made(model, choose_adapters=adapters), list[Slot](), dict[Slot, list[Piece]]()
    most = 0
    while len(slots) < len(requests) or not engine.idle:
        for request in requests[len(slots) : len(slots) + order.randrange(20)]:
            slots.append(engine.add(request))
            pieces[slots[-1]] = []
        for slot, piece in engine.step():
            assert isinstance(piece, Piece)
            pieces[slot].append(piece)
        most = max(most, len(engine.live))
    assert [written(pieces[slot]) for slot in slots] == expected and most == 64
    assert empty(engine) and engine.figures.reused_tokens > 0
    assert engine.figures.new_tokens == sum(len(tokens) for tokens, *_ in expected)


@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8", "int4"])
def test_natively_64_rows_share_each_pass_and_are_what_they_are_alone(weights: str) -> None:
    """Alone, among others, in one piece or several, with pages of new tokens reused: every bit."""
    if library("step") is None:
        pytest.skip("no C++ compiler")
    model, order = random_model("llama", d_model=64), random.Random(weights)
    if weights.startswith("int"):
        quantize_model(model, weights)
    model = prepare_for_inference(model.bfloat16() if weights == "bf16" else model)
    requests = [replace(request, ids=request.ids[:4]) for request in some(order, 64, (8, 20), (None,))]
    requests += some(order, 8, (1, 14), (None,))
    expected = [alone(model, request) for request in requests]
    engine = made(model)
    assert not engine.reader.one_by_one
    slots = [engine.add(request) for request in requests]
    assert run(engine, slots) == expected and empty(engine)
    longest = max(slots[:64], key=lambda slot: len(slot.ids))
    again = engine.add(replace(requests[0], ids=tuple(longest.ids) * 2))
    assert run(engine, [again]) == [alone(model, again.request, chunk=16)] and again.reused >= 16


def test_a_nucleus_is_the_same_in_a_row_alone_and_among_others() -> None:
    """At a p that is a sum of the likeliest tokens, where the last bit decides, with a vocabulary so large that torch
    divides the sum of a single row among its threads."""
    logits, threads = torch.randn(40, 60_000, generator=torch.Generator().manual_seed(1)) * 3, torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        odd = [row for row in logits.split(1) if row.logsumexp(-1) != row.expand(2, -1).logsumexp(-1)[0]]
        assert odd, "torch sums a row alone as among others; then this test tells nothing"
        for row in odd[:1]:
            likeliest = (row.sort(descending=True).values - row.logsumexp(-1)).exp()[0]
            for p in (likeliest.cumsum(-1) - likeliest)[1:14].tolist():
                assert torch.equal(top_p(row, p)[0], top_p(row.expand(2, -1), p)[0])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_is_that_of_the_plain_loop(kind: str, exact: bool) -> None:
    model, order = random_model(kind), random.Random(kind)
    texts = [bytes(order.randrange(256) for _ in range(n)) for n in (1, 5, 15, 16, 17, 31, 32, 33, 64, 100)]
    engine = made(model, exact=exact)
    found = run(engine, [engine.add(ask(text, temperature=0, max_new_tokens=50)) for text in texts])
    plain = generate(model, BYTES, [[*text] for text in texts], temperature=0, max_new_tokens=50, use_cache=False)
    assert [tokens for tokens, *_ in found] == [completion.tokens for completion in plain]
    assert [text for _, _, text, _ in found] == [completion.text for completion in plain]


def test_seeds_are_those_of_generate() -> None:
    model = random_model("llama")
    given: dict[str, Any] = {
        "temperature": 0.8,
        "top_p": 0.9,
        "repetition_penalty": 1.2,
        "max_new_tokens": 30,
        "seed": 5,
    }
    engine = made(model)
    slots = [engine.add(replace(ask("To be or not to be", **given), index=i)) for i in range(4)]
    expected = generate(model, BYTES, "To be or not to be", num_samples=4, **given)
    assert [tokens for tokens, *_ in run(engine, slots)] == [completion.tokens for completion in expected]


@pytest.mark.parametrize("length", [15, 16, 17, 31, 32, 33, 63, 64, 65, 97])
def test_a_prefix_that_was_read_before_changes_no_bit(length: int) -> None:
    """At each edge of a page and of a chunk; what is reused is what is said."""
    model, text = random_model("gpt"), bytes(i * 7 % 256 for i in range(length))
    again, other = ask(text, max_new_tokens=20), ask(text[:-1] + b"!?" + text[-3:], max_new_tokens=20)
    expected = [alone(model, request) for request in (again, other)]
    engine = made(model)
    reused = list[int]()
    for request in (again, again, other, again):
        slot = engine.add(request)
        assert run(engine, [slot]) == [expected[request is other]]
        reused.append(slot.reused)
    whole = (length - 1) // 32 * 32  # chunks that both begin with, without the last token
    assert reused == [0, whole, whole, whole] and empty(engine)


def test_a_chat_reads_only_what_is_new() -> None:
    model = random_model("llama")
    engine = made(model, chunk=16)
    first = engine.add(ask("x" * 70, max_new_tokens=4))
    run(engine, [first])
    second = engine.add(ask("x" * 70 + "more", max_new_tokens=4))
    run(engine, [second])
    assert (first.reused, second.reused) == (0, 64)
    assert engine.figures.prompt_tokens == 144 and engine.figures.reused_tokens == 64
    third = engine.add(ask("x" * 70, adapter="another", max_new_tokens=4))
    run(engine, [third])
    assert third.reused == 0
    loose = made(model, exact=False, chunk=64)  # pages of any place, those of new tokens too
    slot = loose.add(ask("x" * 30, temperature=0, max_new_tokens=20))
    ((tokens, *_),) = run(loose, [slot])
    slot = loose.add(ask([*b"x" * 30, *tokens], max_new_tokens=1))
    run(loose, [slot])
    assert slot.reused == 48


@pytest.mark.parametrize("kind", ["gpt", "llama"])
def test_a_text_ends_with_the_context_or_goes_beyond_it(kind: str) -> None:
    model = random_model(kind)
    engine = made(model)
    slot = engine.add(ask("w" * 150, max_new_tokens=50))
    ((tokens, _, _, why),) = run(engine, [slot])
    assert why == "length" and len(tokens) == CONTEXT - 150 + 1
    with pytest.raises(ContextOverflow, match="161 tokens and the context is 160"):
        engine.add(ask("w" * 161))
    beyond = ask("w" * 150, temperature=0, max_new_tokens=50, past_context="extend")
    if kind == "gpt":
        with pytest.raises(FathomError, match="learned positions"):
            engine.add(beyond)
    else:
        ((tokens, *_),) = run(engine, [engine.add(beyond)])
        (plain,) = generate(model, BYTES, "w" * 150, beyond.options, use_cache=False)
        assert tokens == plain.tokens and len(tokens) == 50


def test_longrope_is_read_again_where_it_is_rotated_otherwise() -> None:
    from fathom.model.config import Rotary
    from tests.architectures import LONGROPE

    model = random_model("llama", rope=Rotary(scaling=replace(
        LONGROPE, original_context_length=64, short=(1.0, 1.1, 1.2, 1.3), long=(1.5, 2.0, 3.0, 4.0))))  # fmt: skip
    texts = ["a" * 60, "b" * 20, "c" * 100, "a" * 60, "c" * 100]
    engine = made(model, exact=False)
    given: dict[str, Any] = {"temperature": 0, "max_new_tokens": 30}
    found = run(engine, [engine.add(ask(text, **given)) for text in texts])
    plain = generate(model, BYTES, texts, use_cache=False, **given)
    assert [tokens for tokens, *_ in found] == [completion.tokens for completion in plain] and empty(engine)


@pytest.mark.parametrize("kind", ["gpt", "llama"])
@pytest.mark.parametrize("exact", [True, False])
def test_a_text_slides_out_of_the_context_as_in_a_pass_over_the_window(kind: str, exact: bool) -> None:
    """Among others, with prefixes that are shared, and with too little memory for all at once."""
    model, order = random_model(kind, context_length=64), random.Random(kind)
    texts = [bytes(order.randrange(256) for _ in range(order.randrange(1, 65))) for _ in range(4)]
    texts += [texts[0], b"a" * 40, b"a" * 40]
    given: dict[str, Any] = {"temperature": 0, "max_new_tokens": 110, "past_context": "slide"}
    plain = generate(model, BYTES, [[*text] for text in texts], use_cache=False, **given)
    for tokens in (7 * 64, 2 * 64 + 16):
        engine = made(model, exact=exact, tokens=tokens)
        found = run(engine, [engine.add(ask(text, **given)) for text in texts])
        assert [tokens for tokens, *_ in found] == [completion.tokens for completion in plain] and empty(engine)
        assert engine.figures.prompt_tokens == sum(map(len, texts))


class Only:
    """Allows the bytes of a text, one after another; fails where it is told to."""

    def __init__(self, text: bytes, fails: int = -1) -> None:
        self.text, self.fails, self.at = text, fails, 0

    def mask(self) -> Tensor:
        if self.at == self.fails:
            raise FathomError("the grammar allows no token here")
        return torch.arange(256) == self.text[self.at]

    def accept(self, token: int) -> None:
        assert token == self.text[self.at]
        self.at += 1

    @property
    def finished(self) -> bool:
        return self.at == len(self.text)


def test_a_constraint_is_kept_and_its_error_is_that_of_its_row() -> None:
    model = random_model("llama")
    free, other = ask("free", max_new_tokens=12), ask("other", max_new_tokens=12)
    expected = [alone(model, request) for request in (free, other)]
    engine = made(model)
    kept = engine.add(replace(ask("kept"), constraint=Only("{\u20ac}".encode())))
    fails = engine.add(replace(ask("fails"), constraint=Only(b"abcdef", fails=3)))
    others = [engine.add(free), engine.add(other)]
    pieces: dict[Slot, list[Any]] = {slot: [] for slot in (kept, fails, *others)}
    while not engine.idle:
        for slot, piece in engine.step():
            pieces[slot].append(piece)
    assert written(pieces[kept])[2:] == ("{\u20ac}", "stop")
    assert [piece.text for piece in pieces[fails][:-1]] == ["a", "b", "c"]
    assert isinstance(pieces[fails][-1], FathomError)
    assert [written(pieces[slot]) for slot in others] == expected and empty(engine)


def test_lookup_gives_the_same_tokens_in_fewer_steps() -> None:
    model = random_model("llama")
    text = "the cat sat on the mat, the cat sat on the "
    for options in ({"temperature": 0}, {"temperature": 0.3, "seed": 4}):
        steps, tokens = [], []
        for speculate in ("off", "lookup"):
            engine = made(model, exact=False)
            slot = engine.add(ask(text, max_new_tokens=60, speculate=speculate, **options))
            tokens.append(run(engine, [slot])[0][0])
            steps.append(engine.figures.steps)
            assert empty(engine)
        assert tokens[0] == tokens[1] and steps[1] < steps[0]


def test_top_is_the_likeliest_and_the_text_ends_at_stop_strings() -> None:
    model = random_model("llama")
    engine = made(model)
    slot = engine.add(replace(ask("abc", temperature=0, max_new_tokens=3), top=4))
    while not engine.idle:
        for _, piece in engine.step():
            assert isinstance(piece, Piece) and len(piece.top) == 4
            assert piece.top[0] == (piece.token, piece.logprob)
            assert [value for _, value in piece.top] == sorted((value for _, value in piece.top), reverse=True)
    (whole,) = generate(model, BYTES, "abc", temperature=0, max_new_tokens=30)
    stop = whole.text[10:12]
    ((*_, text, why),) = run(engine, [engine.add(ask("abc", temperature=0, max_new_tokens=30, stop=(stop,)))])
    assert (text, why) == (whole.text[: whole.text.index(stop)], "stop")
    assert slot.row.finish_reason == "length"
