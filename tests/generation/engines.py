"""Engines over small random models, and what they write."""

import random
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from fathom.backend.pages import Pages
from fathom.generation.engine import Engine
from fathom.generation.options import GenerateOptions
from fathom.generation.paged import Paged
from fathom.generation.slots import Request, Slot
from fathom.generation.text import Piece
from fathom.model.transformer import Transformer
from fathom.tokenizer.characters import ByteTokenizer
from tests.generation.models import CONTEXT

BYTES = ByteTokenizer()
SHARED = bytes(i * 37 % 256 for i in range(100))
ROOM = 64 * CONTEXT  # tokens for 64 whole contexts
Written = tuple[tuple[int, ...], tuple[float, ...], str, str | None]  # tokens, their logprobs, the text, why it ended


def made(model: Transformer, **changes: Any) -> Engine:
    """An engine over pages. changes: arguments of Engine and of Paged."""
    given = {"tokens": ROOM, "chunk": 32, "exact": True} | changes
    reader = Paged(model, given.pop("tokens"), chunk=given.pop("chunk"), exact=given.pop("exact"))
    return Engine(model, BYTES, reader, **given)


def pages(engine: Engine) -> Pages:
    assert isinstance(engine.reader, Paged)
    return engine.reader.pages


def ask(prompt: str | Sequence[int], adapter: str | None = None, **options: Any) -> Request:
    ids = tuple(prompt.encode() if isinstance(prompt, str) else prompt)
    return Request(ids, GenerateOptions(**{"past_context": "stop", "seed": 0} | options), adapter)


def written(pieces: Iterable[Piece]) -> Written:
    pieces = list(pieces)
    texts = "".join(piece.text for piece in pieces)
    return tuple(p.token for p in pieces), tuple(p.logprob for p in pieces), texts, pieces[-1].finish_reason


def run(engine: Engine, slots: Sequence[Slot]) -> list[Written]:
    """Step until nothing is left to do; what each of these slots wrote."""
    pieces: dict[Slot, list[Piece]] = {slot: [] for slot in slots}
    while not engine.idle:
        for slot, piece in engine.step():
            assert isinstance(piece, Piece), piece
            pieces[slot].append(piece)
    return [written(pieces[slot]) for slot in slots]


def alone(model: Transformer, request: Request, **changes: Any) -> Written:
    engine = made(model, **{"tokens": 2 * CONTEXT} | changes)
    return run(engine, [engine.add(request)])[0]


def empty(engine: Engine) -> bool:
    """No page is lent and nothing waits."""
    ledger = pages(engine).ledger
    return engine.idle and not any(ledger.users) and ledger.available == ledger.n_pages


def some(
    order: random.Random, count: int, new: tuple[int, int], adapters: Sequence[str | None] = (None, "a", "b")
) -> list[Request]:
    """Requests of any length, greedy and drawn; half of them begin alike. new: tokens, from and up to."""
    texts = [bytes(order.randrange(256) for _ in range(order.randrange(1, 100))) for _ in range(count)]
    requests = []
    for i, text in enumerate(texts):
        if order.random() < 0.5:
            text = SHARED[: order.randrange(33, 100)] + text[:20]
        options: dict[str, Any] = {"max_new_tokens": order.randrange(*new), "seed": i}
        options |= order.choice([
            {"temperature": 0}, {"temperature": 0.9}, {"temperature": 1.2, "top_k": 20, "top_p": 0.9},
            {"repetition_penalty": 1.3}, {"presence_penalty": 0.8, "frequency_penalty": 0.3}, {"min_p": 0.05},
        ])  # fmt: skip
        requests.append(ask(text, order.choice(adapters), **options))
    return requests


def louder(model: Transformer) -> Any:
    """Two adapters, which add to what the last norm gives; each row has its own in every pass."""
    change = {None: torch.zeros(32), "a": torch.randn(32), "b": torch.randn(32)}

    @contextmanager
    def choose(names: Sequence[str | None]) -> Any:
        rows = torch.stack([change[name] for name in names])[:, None]  # (b, 1, d)
        hook = model.embed.register_forward_hook(lambda module, given, x: x + rows)
        try:
            yield
        finally:
            hook.remove()

    return choose
