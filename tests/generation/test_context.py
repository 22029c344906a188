"""What the model sees of a text, and the cache that remembers it, against the plain pass over the whole text."""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from fathom.backend import one_piece
from fathom.backend.cuda_graph import RecordedStep
from fathom.backend.inference import InferenceModel
from fathom.backend.one_piece import OnePiece
from fathom.errors import ContextOverflow, FathomError
from fathom.generation.context import Window, most_of, room_for
from fathom.generation.generate import stream
from fathom.generation.options import GenerateOptions
from fathom.model.config import Layers, Rotary
from fathom.tokenizer.characters import ByteTokenizer
from tests.architectures import LONGROPE
from tests.generation.models import CONTEXT, KINDS, random_model

BYTES = ByteTokenizer()
KINDS_OF_CACHE: dict[str, dict[str, Any]] = {
    "one store": {},
    "as on a GPU": {"static": True},
    "windows": {"layers": Layers("lg", window=8)},
    "longrope": {"rope": Rotary(scaling=replace(
        LONGROPE, original_context_length=64, short=(1.0, 1.1, 1.2, 1.3), long=(1.5, 2.0, 3.0, 4.0)))},
}  # fmt: skip


@pytest.mark.parametrize("changes", KINDS_OF_CACHE.values(), ids=KINDS_OF_CACHE)
@torch.no_grad()
def test_a_text_is_read_from_where_it_differs_and_says_what_it_says_alone(changes: dict[str, Any]) -> None:
    """Longer, shorter and other texts one after another, in caches that grow, and whose windows forget."""
    changes = dict(changes)
    static, model = changes.pop("static", False), random_model("llama", context_length=600, **changes)
    piece = OnePiece(InferenceModel(model, RecordedStep) if static else model)
    order, text, reused = random.Random(1), list[int](), 0
    for _ in range(40):
        text = text[: order.choice([len(text), len(text), len(text), order.randrange(len(text) + 1)])] or [7]
        text = [*text, *(order.randrange(256) for _ in range(order.choice([0, 5, 30, 90])))][:590]
        most = len(text) + order.randrange(10)
        same = piece.begin(text, most)
        reused += same
        assert same < len(text) and piece.cache.capacity >= most
        hidden = piece.read(text[same:])
        torch.testing.assert_close(hidden, model.hidden(torch.tensor([text]))[:, same:], atol=2e-5, rtol=1e-5)
    assert reused > 500
    assert piece.begin(text, 600, adapter="another") == 0


@torch.no_grad()
def test_a_pass_that_breaks_off_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("llama", layers=Layers("l", window=4))
    piece, text = OnePiece(model), list(range(30))
    piece.begin(text, 60)
    piece.read(text)
    with monkeypatch.context() as patched:
        patched.setattr(model.blocks[1], "forward", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            piece.read([1, 2, 3])
    assert piece.begin([*text, 5], 60) == 0
    torch.testing.assert_close(piece.read([*text, 5]), model.hidden(torch.tensor([[*text, 5]])), atol=2e-5, rtol=1e-5)


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


def shapes_of(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of all passes from now on."""
    shapes, forward = list[tuple[int, ...]](), model.embed.forward

    def noted(ids: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(ids.shape))
        return forward(ids)

    monkeypatch.setattr(model.embed, "forward", noted)
    return shapes


@pytest.mark.parametrize("count", [1, 17, 48, 50])
def test_prefill_reads_samples_once_and_no_more_than_a_chunk_at_a_time(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others have its pages, and copy the one that is not full; each reads the last token."""
    model = random_model("llama")
    shapes = shapes_of(model, monkeypatch)
    given: dict[str, Any] = {"prefill_chunk": 16, "max_new_tokens": 5, "temperature": 0}
    running = stream(model, BYTES, [range(count)], num_samples=3, **given)
    found = running.collect()
    whole, rest = [(1, 16)] * (count // 16), count % 16
    assert shapes == whole + {0: [(2, 1)], 1: [(3, 1)]}.get(rest, [(1, rest), (2, 1)]) + [(3, 1)] * 4
    (alone,) = stream(model, BYTES, [range(count)], **given).collect()
    for each in found:
        assert each.tokens == alone.tokens and each.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
    assert running.stats.prompt_tokens == count and running.stats.reused_tokens == 0


@pytest.mark.parametrize("room, most", [(None, 12), (40, 12), (8, 8)])
def test_the_cache_is_as_long_as_what_will_be_read_and_no_longer(room: int | None, most: int) -> None:
    assert most_of(3, GenerateOptions(max_new_tokens=10), room) == most


def test_bytes_of_the_cache_are_the_formula() -> None:
    """Of one text all its tokens, of several all their pages."""
    model = random_model("llama")
    for prompts, tokens in ((["abc"], 60), (["abc", "x" * 40], 64 + 112)):
        running = stream(model, BYTES, prompts, max_new_tokens=58)
        next(running)
        assert running.stats.cache_bytes == 2 * 2 * 2 * 8 * tokens * 4  # 2 L g c T itemsize


def test_too_little_memory_is_said_before_anything_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_piece, "free_memory", lambda device: 1 << 20)
    monkeypatch.setattr(one_piece, "cache_for", lambda *_: pytest.fail("allocated"))
    running = stream(random_model("llama", context_length=10**6), BYTES, "a", max_new_tokens=10**5)
    with pytest.raises(FathomError, match=r"100,000 tokens needs 24 MiB and 1 MiB are free"):
        next(running)
    monkeypatch.setattr("fathom.backend.pages.free_memory", lambda device: 1 << 20)
    with pytest.raises(FathomError, match=r"300,000 tokens needs 73 MiB .* and 1 MiB are free"):
        stream(random_model("llama", context_length=10**6), BYTES, "a", max_new_tokens=10**5, num_samples=3)


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
