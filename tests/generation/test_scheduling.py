"""Who is read and written when: waiting, chunks, cancelled requests and errors, and the pages that all of it takes."""

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.backend.pages import PAGE
from fathom.errors import ContextOverflow, FathomError, OutsideVocabulary
from fathom.generation.options import Bias
from fathom.generation.slots import Slot
from fathom.generation.text import Piece
from tests.generation.engines import SHARED, alone, ask, empty, louder, made, pages, run, some, written
from tests.generation.models import CONTEXT, random_model


@given(order=st.randoms(use_true_random=False), tokens=st.integers(10, 60), rows=st.integers(1, 9))
@settings(max_examples=15, derandomize=True)
def test_cancelled_at_any_moment_nothing_is_left_and_the_others_are_as_they_were(
    order: random.Random, tokens: int, rows: int
) -> None:
    """With too little memory and too few rows for all at once, so that requests wait."""
    model = random_model("llama")
    engine, requests = made(model, tokens=tokens * PAGE, rows=rows), some(order, 12, (1, 20))
    slots, pieces, ended = list[Slot](), dict[Slot, list[Piece]](), set[Slot]()
    cancelled = set[Slot]()
    for request in requests:
        if (len(request.ids) + request.options.max_new_tokens - 2) // PAGE + 1 > tokens:
            with pytest.raises(ContextOverflow, match=f"and the cache has {tokens * PAGE}"):
                engine.add(request)
            continue
        slots.append(engine.add(request))
        pieces[slots[-1]] = []
    while not engine.idle:
        for slot in order.sample(slots, min(len(slots), order.choice([0, 0, 0, 1]))):
            engine.cancel(slot)
            cancelled |= {slot} - ended
            assert slot not in engine.live and not slot.table
        lent = [page for slot in engine.live for page in slot.table]
        assert pages(engine).ledger.users == [lent.count(page) for page in range(tokens)]
        for slot, piece in engine.step():
            assert slot not in cancelled and isinstance(piece, Piece)
            pieces[slot].append(piece)
            ended |= {slot} if piece.finish_reason else set()
        assert len(engine.live) <= rows
    assert empty(engine) and ended | cancelled == {*slots}
    for slot in ended:
        assert written(pieces[slot]) == alone(model, slot.request)


def test_requests_that_must_wait_come_in_their_order() -> None:
    """One that is too large for now is not overtaken."""
    engine = made(random_model("llama"), tokens=6 * PAGE, rows=3)
    sizes = [40, 60, 3, 3, 3]
    slots = [engine.add(ask(b"%d" % i + b"y" * n, max_new_tokens=9, temperature=0)) for i, n in enumerate(sizes)]
    begun, ended = list[int](), list[int]()
    assert engine.figures.queue == 5
    while not engine.idle:
        for slot, piece in engine.step():
            place = slots.index(slot)
            begun += [place] if place not in begun else []
            ended += [place] if piece.finish_reason else []  # type: ignore[union-attr]
    assert begun == [0, 1, 2, 3, 4] and ended == [0, 1, 2, 3, 4] and empty(engine)


def test_no_stream_waits_for_more_than_a_chunk() -> None:
    """While a long prompt is read, every step writes a token of the rows that are there."""
    engine = made(random_model("llama"))
    first = engine.add(ask("abc", max_new_tokens=100))
    engine.step()
    second = engine.add(ask("z" * 140, max_new_tokens=5))
    for _ in range(4):
        read = second.length
        assert [slot for slot, _ in engine.step()] == [first]
        assert second.length - read == 32
    assert [slot for slot, _ in engine.step()] == [second, first]


def test_many_short_prompts_share_a_chunk() -> None:
    engine = made(random_model("llama"))
    slots = [engine.add(ask("four" + str(i), max_new_tokens=2)) for i in range(12)]
    assert [slot for slot, _ in engine.step()] == slots[:6]  # of 5 tokens each


@pytest.mark.parametrize("exact", [True, False])
def test_logits_that_are_not_finite_end_their_row_alone(exact: bool) -> None:
    model = random_model("llama")
    good = ask("good text", max_new_tokens=12, temperature=0)
    expected = alone(model, good, exact=exact)[0]
    with torch.no_grad():
        model.embed.weight[7] = float("nan")
    engine = made(model, exact=exact)
    slots = [engine.add(good), engine.add(ask([*b"x" * 40, 7])), engine.add(good)]
    pieces: dict[Slot, list[Any]] = {slot: [] for slot in slots}
    while not engine.idle:
        for slot, piece in engine.step():
            pieces[slot].append(piece)
    assert [written(pieces[slot])[0] for slot in (slots[0], slots[2])] == [expected] * 2
    (error,) = pieces[slots[1]]
    assert isinstance(error, FathomError) and "not finite" in str(error) and empty(engine)


def test_a_pass_that_fails_is_the_error_of_those_that_fail_alone() -> None:
    model = random_model("llama")
    adapters = louder(model)
    expected = alone(model, ask("one", "a", max_new_tokens=9, temperature=0), choose_adapters=adapters)[0]
    engine = made(model, choose_adapters=adapters, exact=False)
    slots = [engine.add(ask(text, name, max_new_tokens=9, temperature=0)) for text, name in (("one", "a"), ("q", "zz"))]
    pieces: dict[Slot, list[Any]] = {slot: [] for slot in slots}
    while not engine.idle:
        for slot, piece in engine.step():
            pieces[slot].append(piece)
    assert written(pieces[slots[0]])[0] == expected
    assert [type(error) for error in pieces[slots[1]]] == [KeyError] and empty(engine)


def test_what_can_never_be_answered_is_refused_at_once() -> None:
    engine = made(random_model("llama"), tokens=100)
    with pytest.raises(ContextOverflow, match=r"90 tokens and 60 new ones need 149 places and the cache has 112"):
        engine.add(ask("q" * 90, max_new_tokens=60))
    with pytest.raises(OutsideVocabulary, match="holds token 256; expected ids from 0 to 255"):
        engine.add(ask([1, 256]))
    with pytest.raises(OutsideVocabulary, match="holds no token"):
        engine.add(ask([]))
    with pytest.raises(OutsideVocabulary, match="logit_bias names token 300"):
        engine.add(ask("a", logit_bias=(Bias(300, 1.0),)))
    with pytest.raises(FathomError, match="chunk is 100; expected a multiple of 16"):
        made(random_model("llama"), chunk=100)
    assert empty(engine)


def test_a_shared_prefix_takes_its_pages_once() -> None:
    """Of a prompt of 64 tokens 48 are found again: the last one is always read."""
    engine = made(random_model("llama"), tokens=4 * CONTEXT, chunk=16)
    run(engine, [engine.add(ask(SHARED[:64], max_new_tokens=1))])
    slots = [engine.add(ask(SHARED[:64], max_new_tokens=CONTEXT - 64)) for _ in range(2)]
    engine.step(), engine.step()
    assert [slot.reused for slot in slots] == [48, 48]
    assert engine.figures.pages_used == 2 * CONTEXT // PAGE - 48 // PAGE
