"""Rows in pages are what they are alone over a KVCache; a page has as many users as there are rows that read it."""

import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fathom.backend import pages as module
from fathom.backend.pages import PAGE, Ledger, PagedCache, Pages, beginning, digests, page_bytes, pages_for
from fathom.errors import ContextOverflow, FathomError
from fathom.model.cache import KVCache
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from tests.architectures import ARCHITECTURES, BEYOND, LLAMA, configs, ids_for, model_of

CACHED = {name: config for name, config in ARCHITECTURES.items() if config.norm != "none"}
LONG = 3 * PAGE + 5  # tokens: several pages, and longer than the windows and the context of the tiny models


def longer(config: ModelConfig) -> ModelConfig:
    return config.__class__(**{**vars(config), "context_length": LONG})


def alone(model: Transformer, texts: Sequence[Tensor], starts: Sequence[int]) -> Tensor:
    """(b, t, V): each text (1, n) read alone over a KVCache, its last tokens as one piece."""
    parts = []
    for text, start in zip(texts, starts):
        cache = KVCache(model.config, 1, text.shape[1], dtype=model.embed.weight.dtype)
        cache.horizon = max(len(text[0]) for text in texts)
        if start:
            model(text[:, :start], cache)
        parts.append(model(text[:, start:], cache))
    return torch.cat(parts)


def in_pages(model: Transformer, texts: Sequence[Tensor], starts: Sequence[int], order: random.Random) -> Tensor:
    """The same with all rows in one pass, after each has read its own beginning; pages lie in any order."""
    config, horizon = model.config, max(len(text[0]) for text in texts)
    pages = Pages(config, PAGE * sum(pages_for(len(text[0])) for text in texts), model.embed.weight.dtype)
    order.shuffle(pages.ledger.free)
    pages.keys.fill_(float("nan")), pages.values.fill_(float("nan"))  # what nobody wrote is never seen
    tables = [pages.ledger.take(pages_for(len(text[0]))) for text in texts]
    for table, text, start in zip(tables, texts, starts):
        if start:
            model(text[:, :start], PagedCache(pages, [table], [0], horizon))
    cache = PagedCache(pages, tables, starts, horizon)
    result = model(torch.cat([text[:, start:] for text, start in zip(texts, starts)]), cache)
    assert cache.lengths.tolist() == [len(text[0]) for text in texts] and cache.length == horizon
    return result


@pytest.mark.parametrize("name", [*CACHED, *BEYOND])
@torch.no_grad()
def test_rows_of_any_length_in_one_pass_are_what_they_are_alone(name: str) -> None:
    config = longer((CACHED | BEYOND)[name])
    model, order = model_of(config, std=0.1), random.Random(name)
    for t in (1, 3):
        starts = [0, LONG - t, PAGE - 1, PAGE, order.randrange(LONG - t)]
        texts = [ids_for(config, 1, start + t) for start in starts]
        torch.testing.assert_close(
            in_pages(model, texts, starts, order), alone(model, texts, starts), atol=2e-5, rtol=2e-5
        )


@given(config=configs(), starts=st.lists(st.integers(0, 30), min_size=1, max_size=4), t=st.integers(1, 9))
@settings(max_examples=80, derandomize=True)
@torch.no_grad()
def test_any_architecture(config: ModelConfig, starts: list[int], t: int) -> None:
    model, config = model_of(longer(config), std=0.1), longer(config)
    texts = [ids_for(config, 1, start + t) for start in starts]
    expected = alone(model, texts, starts)
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(
        in_pages(model, texts, starts, random.Random(t)) / scale, expected / scale, atol=3e-5, rtol=3e-5
    )


@pytest.mark.parametrize("head_dim", [4, 5], ids=["words of two channels", "an odd head_dim"])
@torch.no_grad()
def test_bf16_keeps_every_bit_of_one_row(head_dim: int) -> None:
    config = ModelConfig(**{**vars(longer(CACHED["gpt"])), "head_dim": head_dim, "n_kv_head": 2})
    model, starts = model_of(config, std=0.1).bfloat16(), [2 * PAGE + 3]
    texts = [ids_for(config, 1, starts[0] + 4)]
    pages = Pages(config, 1, torch.bfloat16)
    assert pages.keys.shape[3:] == ((2, PAGE, 2) if head_dim == 4 else (5, PAGE))
    assert torch.equal(in_pages(model, texts, starts, random.Random(0)), alone(model, texts, starts))


def test_layout() -> None:
    """The order in memory that native code reads."""
    for dtype in (torch.float32, torch.bfloat16):
        pages = Pages(LLAMA, 5 * PAGE, dtype)
        (g, c), table, t = (2, 4), [3, 1], PAGE + 2
        k, v = torch.randn(2, 1, g, t, c).to(dtype)
        PagedCache(pages, [table], [0]).append(1, k, v)
        for head, place, channel in ((0, 0, 0), (1, 5, 3), (0, PAGE, 2), (1, PAGE + 1, 1)):
            page, slot = table[place // PAGE], place % PAGE
            where = (channel, slot) if dtype == torch.float32 else (channel // 2, slot, channel % 2)
            assert pages.keys[(1, page, head, *where)] == k[0, head, place, channel]
            assert pages.values[1, page, head, slot, channel] == v[0, head, place, channel]
        assert pages.nbytes == 5 * page_bytes(LLAMA, dtype)


def test_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_memory", lambda device: 3 * page_bytes(LLAMA, torch.float32) + 7)
    Pages(LLAMA, 3 * PAGE)
    with pytest.raises(FathomError, match=r"a cache of 64 tokens needs 0 MiB \(4 pages of 3 KiB\).*hold 48 tokens"):
        Pages(LLAMA, 3 * PAGE + 1)
    cache = PagedCache(Pages(LLAMA, 32), [[0], [1]], [3, 15])
    with pytest.raises(ContextOverflow, match="2 tokens are to be read and the pages of a row have room for 1 more"):
        cache.append(0, *torch.zeros(2, 2, 2, 2, 4))


def test_a_digest_is_of_all_tokens_up_to_the_end_of_the_page_and_of_the_adapter() -> None:
    ids = list(range(2 * PAGE + 3))
    first, second = digests(ids, beginning(None))
    assert digests(ids[: 2 * PAGE - 1], beginning(None)) == [first]
    assert digests([*ids[:PAGE], 99, *ids[PAGE + 1 :]], beginning(None))[0] == first
    others = [[1, *ids[1:]], [*ids[:PAGE], 99, *ids[PAGE + 1 :]], [*ids[PAGE:], *ids[:PAGE]]]
    names = {digests(other, beginning(None))[1] for other in others}
    for begin in (beginning(""), beginning("a"), beginning("b"), beginning("a", stretched=True)):
        names |= {*digests(ids, begin)}
    assert len(names) == 3 + 8 and not names & {first, second}


@given(st.randoms(use_true_random=False), st.integers(4, 12))
@settings(max_examples=100, derandomize=True)
def test_pages_come_back_whatever_the_order(order: random.Random, n_pages: int) -> None:
    """Random takes, shares and returns: every page is free, kept or lent, and each lent one has its users counted."""
    ledger, rows = Ledger(n_pages), list[list[int]]()
    texts = [bytes([i]) for i in range(9)]
    for _ in range(60):
        if rows and order.random() < 0.45:
            ledger.give_back(rows.pop(order.randrange(len(rows))))
        else:
            found = ledger.find(order.sample(texts, 2))
            count = order.randrange(3)
            if count > ledger.available - ledger.kept_among(found):
                with pytest.raises(FathomError, match=f"of {n_pages} and {n_pages + 1} are needed"):
                    ledger.take(n_pages + 1)
                continue
            ledger.share(found)
            new = ledger.take(count)
            for page in new:
                ledger.name(page, order.choice(texts))
            rows.append(found + new)
        if order.random() < 0.1:
            ledger.forget(order.sample(range(n_pages), 2))
        lent = [page for row in rows for page in row]
        assert ledger.users == [lent.count(page) for page in range(n_pages)]
        assert sorted([*ledger.free, *ledger.kept, *set(lent)]) == [*range(n_pages)]
        assert {page: name for name, page in ledger.places.items()} == ledger.names
        assert {*ledger.kept} <= ledger.names.keys() and ledger.used == len({*lent})
    for row in rows:
        ledger.give_back(row)
    assert ledger.users == [0] * n_pages and ledger.available == n_pages


def test_the_least_recently_used_is_lent_first_and_a_text_loses_its_end_first() -> None:
    ledger = Ledger(4)
    old, new = ledger.take(2), ledger.take(2)
    for page, name in zip(old + new, (b"a", b"ab", b"c", b"cd")):
        ledger.name(page, name)
    ledger.give_back(old), ledger.give_back(new)
    ledger.share(old), ledger.give_back(old)  # used again: now the others are older
    assert ledger.take(1) == new[1:] and ledger.find([b"c", b"cd"]) == new[:1]
    assert ledger.take(2) == [new[0], old[1]] and ledger.find([b"a", b"ab"]) == old[:1]
    with pytest.raises(FathomError, match="the cache has 1 free page of 4 and 2 are needed; end a text first"):
        ledger.take(2)
