"""The cache, padding, chunks and sliding against the plain pass over each row's whole window."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fathom.errors import ContextOverflow, FathomError
from fathom.generation import context
from fathom.generation.context import Cached, Recompute, Window, make_reader, room_for
from fathom.generation.options import GenerateOptions
from fathom.model.transformer import Transformer
from tests.generation.models import CONTEXT, KINDS, random_model

ROWS = [[5], list(range(40, 77)), [9, 8, 7], list(range(40, 77)), list(range(100, 112))]


def windows(room: int | None = None) -> list[Window]:
    return [Window(ids, room, slides=True) for ids in ROWS]


@torch.no_grad()
def follow(model: Transformer, capacity: int, chunk: int, room: int | None, steps: int) -> Iterator[tuple[Any, Any]]:
    """Logits (cached, plain) of rows that grow by the same tokens; after a third of the steps the longest row ends."""
    cached, plain, rows = Cached(model, capacity, chunk), Recompute(model), windows(room)
    for step in range(steps):
        if step == steps // 3:
            del rows[1]
        yield cached.logits(rows), plain.logits(rows)
        for place, row in enumerate(rows):
            row.append((37 * step + 11 * place) % 256)


@pytest.mark.parametrize("chunk", [512, 7, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_cached_rows_of_different_length_are_the_plain_pass(kind: str, chunk: int) -> None:
    for found, expected in follow(random_model(kind), 37 + 23, chunk, None, 24):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sliding_cache_is_the_plain_pass_over_the_same_windows(kind: str) -> None:
    for found, expected in follow(random_model(kind, context_length=40), 40, 512, 40, 70):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


def test_a_window_forgets_its_older_half_and_keeps_count() -> None:
    window = Window(range(10), 10, slides=True)
    for token in (10, 11, 12):
        window.append(token)
    assert (window.ids, window.dropped, window.full) == ([6, 7, 8, 9, 10, 11, 12], 6, False)
    assert not any(_grown(Window([0], room, slides=True), 9).full for room in (1, 2, 3))


def _grown(window: Window, count: int) -> Window:
    for token in range(count):
        window.append(token)
    return window


def test_a_window_that_stops_is_full_when_nothing_can_follow() -> None:
    window = Window([1, 2], 3, slides=False)
    assert [_grown(window, 1).full for _ in range(2)] == [False, True]


def test_prefill_reads_samples_once_and_no_more_than_a_chunk_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, shapes = random_model("llama"), []
    monkeypatch.setattr(model.embed, "forward", _noting(shapes, model.embed.forward))
    cached = Cached(model, 100, 16)
    cached.logits([Window(range(50), None, slides=False) for _ in range(3)])
    assert shapes == [(1, 16), (1, 16), (1, 16), (1, 2)]
    assert cached.cache.store.shape[2] == 3 and cached.cache.length == 50


def _noting(shapes: list[tuple[int, ...]], forward: Any) -> Any:
    def noted(ids: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(ids.shape))
        return forward(ids)

    return noted


@pytest.mark.parametrize("room, capacity", [(None, 12), (40, 12), (8, 8)])
def test_the_cache_is_as_long_as_what_will_be_read_and_no_longer(room: int | None, capacity: int) -> None:
    reader = make_reader(random_model("llama"), GenerateOptions(max_new_tokens=10), 3, room)
    assert isinstance(reader, Cached) and reader.capacity == capacity


def test_bytes_of_the_cache_are_the_formula() -> None:
    model = random_model("llama")
    cached = Cached(model, 60, 512)
    cached.logits(windows())
    assert cached.nbytes == cached.cache.nbytes == 2 * 2 * 2 * 8 * 60 * len(ROWS) * 4  # 2 L g c T b itemsize


def test_too_little_memory_is_said_before_anything_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "free_memory", lambda device: 1 << 20)
    monkeypatch.setattr(context, "KVCache", _refuse_large(context.KVCache))
    with pytest.raises(FathomError, match=r"3 x 100,000 tokens needs 73 MiB and 1 MiB are free"):
        Cached(random_model("llama"), 100_000, 512).logits([Window([1], None, slides=False) for _ in range(3)])


def _refuse_large(cache: Any) -> Any:
    def made(config: Any, batch: int, length: int, *rest: Any) -> Any:
        assert batch * length == 0
        return cache(config, batch, length, *rest)

    return made


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_longer_than_the_context_is_refused_with_both_counts(kind: str) -> None:
    config = random_model(kind).config
    assert room_for(config, "stop", CONTEXT) == room_for(config, "slide", CONTEXT) == CONTEXT
    with pytest.raises(ContextOverflow, match=rf"{CONTEXT + 1} tokens and the context is {CONTEXT}") as problem:
        room_for(config, "stop", CONTEXT + 1)
    assert ("extend" in str(problem.value)) == (kind != "gpt")


def test_learned_positions_cannot_be_extended() -> None:
    with pytest.raises(FathomError, match="learned positions for 160 tokens"):
        room_for(random_model("gpt").config, "extend", 3)
    assert room_for(random_model("llama").config, "extend", 3) is None
