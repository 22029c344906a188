"""What heads are said to do, against the NumPy reference with loops, and on patterns whose answer is known."""

import math

import numpy as np
import pytest
import torch

from fathom.inspect import head_stats
from fathom.inspect.head_stats import (
    all_thumbnails,
    bytes_of,
    entropy,
    induction,
    largest,
    of_layer,
    previous_token,
    said_twice,
    sink,
    thumbnail,
    value_norms,
)
from fathom.inspect.look import look
from fathom.model.config import ModelConfig
from tests.architectures import ARCHITECTURES, ids_for, model_of
from tests.reference import Arrays, forward

WITH_LAYERS = {name: config for name, config in ARCHITECTURES.items() if config.n_layer}
every_architecture = pytest.mark.parametrize("config", WITH_LAYERS.values(), ids=WITH_LAYERS.keys())


def expected(config: ModelConfig, seen: Arrays, out: np.ndarray, ids: list[int], layer: int, head: int) -> list[float]:
    """One number at a time."""
    path, t, c = f"blocks.{layer}.attn", len(ids), config.head_dim
    pattern, z = seen[f"{path}.pattern"][0, head], seen[f"{path}.z"][0, :, head]
    sinks = [pattern[query, 0] for query in range(1, t)]
    before = [pattern[query, query - 1] for query in range(1, t)]
    copied = []
    for query in range(t):
        keys = [key for key in range(1, query) if ids[key - 1] == ids[query]]
        copied += [sum(pattern[query, key] for key in keys)] if keys else []
    spread = [-sum(p * math.log(p) for p in row if p > 0) for row in pattern]
    sizes = [np.linalg.norm(out[:, head * c : (head + 1) * c] @ row) for row in z]
    return [float(np.mean(x)) if x else math.nan for x in (sinks, before, copied, spread, sizes)]


@every_architecture
@torch.no_grad()
def test_statistics_against_the_reference(config: ModelConfig) -> None:
    model, ids = model_of(config, std=0.3), ids_for(config, 1, 11) % 5
    with look(model, "**") as seen:
        model(ids)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    truth = forward(model.config, weights, ids.numpy())
    for layer in range(3):
        found = of_layer(model, seen, ids, layer)
        out = weights[f"blocks.{layer}.attn.out.weight"]
        for head in range(6):
            numbers = expected(model.config, truth, out, ids[0].tolist(), layer, head)
            np.testing.assert_allclose([x[head] for x in found.values()], numbers, rtol=1e-3, atol=1e-4)


def test_heads_whose_answer_is_known() -> None:
    ids = torch.tensor([5, 6, 7, 8, 5, 6, 7, 8])
    previous, copies, sinks = torch.eye(8).roll(-1, 1), torch.zeros(8, 8), torch.zeros(8, 8)
    previous[0] = torch.eye(8)[0]
    copies[range(4), 0] = copies[range(4, 8), range(1, 5)] = sinks[:, 0] = 1
    uniform = torch.ones(8, 8).tril() / torch.arange(1.0, 9)[:, None]
    heads = torch.stack((previous, copies, sinks, uniform))
    assert previous_token(heads).tolist()[:3] == pytest.approx([1, 1 / 7, 1 / 7])
    assert induction(heads, ids).tolist()[:3] == [0, 1, 0]
    assert sink(heads).tolist()[:3] == pytest.approx([1 / 7, 3 / 7, 1])
    assert entropy(heads).tolist() == pytest.approx([0, 0, 0, math.lgamma(9) / 8], abs=1e-6)


def test_no_token_comes_twice() -> None:
    assert induction(torch.ones(2, 4, 4).tril(), torch.arange(4)).isnan().all()


def test_a_token_said_twice_running_is_no_induction() -> None:
    """Its copy is just before it, so what followed the copy is the token itself."""
    ids = torch.tensor([3, 3, 3])
    assert head_stats.follows_a_copy(ids).nonzero().tolist() == [[2, 1]]


@pytest.mark.parametrize("t", [1, 2, 31, 32, 33, 64, 75])
def test_rows_of_a_thumbnail_sum_to_1(t: int) -> None:
    pattern = torch.randn(3, t, t).masked_fill(torch.ones(t, t).triu(1).bool(), -math.inf).softmax(-1)
    small = thumbnail(pattern)
    assert small.shape == (3, min(t, 32), min(t, 32))
    torch.testing.assert_close(small.sum(-1), torch.ones(3, min(t, 32)))
    if t == 64:
        torch.testing.assert_close(small[:, 3, 2], pattern[:, 6:8, 4:6].sum(-1).mean(-1))
    if t <= 32:
        torch.testing.assert_close(small, pattern)


@every_architecture
@torch.no_grad()
def test_thumbnails_in_every_view(config: ModelConfig) -> None:
    model, ids = model_of(config, std=0.3), ids_for(config, 1, 11)
    with look(model, "**") as seen:
        model(ids)
    small = all_thumbnails(model, seen)
    for layer, head in ((0, 0), (2, 4)):
        path, group = f"blocks.{layer}.attn", head * model.config.n_kv_head // 6
        pattern, v = seen[f"{path}.pattern"][0, head], seen[f"{path}.v"][0, :, group]
        out = model.blocks[layer].attn.out.weight[:, head * 4 : head * 4 + 4] if model.config.head_dim == 4 else None
        torch.testing.assert_close(small[0, layer, head], pattern)
        torch.testing.assert_close(small[1, layer, head, :, 1:], pattern[:, 1:])
        assert not small[1, layer, head, :, 0].any() and not small[3, layer, head, :, 0].any()
        if out is not None:
            torch.testing.assert_close(small[2, layer, head], pattern * (v @ out.mT).norm(dim=-1), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(
                value_norms(model.blocks[layer].attn, seen[f"{path}.v"][0])[head], (v @ out.mT).norm(dim=-1)
            )
    told = bytes_of(small).float().div(255).square() * largest(small)[:, None, None, None, None]
    assert ((told - small).abs() <= largest(small)[:, None, None, None, None] / 200).all()


def test_said_twice_is_a_text_and_its_copy() -> None:
    ids = said_twice(97, 20, torch.Generator().manual_seed(3), (1,))
    assert ids.shape == (1, 19) and ids[0, 0] == 1
    assert torch.equal(ids[:, 1:10], ids[:, 10:]) and ids.max() < 97
    assert torch.equal(ids, said_twice(97, 20, torch.Generator().manual_seed(3), (1,)))
