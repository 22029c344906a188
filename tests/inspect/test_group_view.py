"""Grouped queries are repeated keys and values, in every architecture; tiled ones are not; what sharing saves."""

from dataclasses import replace

import pytest
import torch

from fathom.anatomy.cost import cache_bytes
from fathom.inspect.group_view import (
    bytes_with,
    choices,
    grouped_is_repeated,
    groups,
    parameters_with,
    read,
    seconds_with,
    tiled,
)
from fathom.inspect.identities import TOLERANCES
from fathom.inspect.look import look
from fathom.model.cache import KVCache
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from tests.architectures import ARCHITECTURES, LLAMA, ids_for, model_of

WITH_LAYERS = {name: config for name, config in ARCHITECTURES.items() if config.n_layer}
TOLERANCE = TOLERANCES["grouped_equals_repeated"]["grouped = repeated to all heads"]


@pytest.mark.parametrize("config", WITH_LAYERS.values(), ids=WITH_LAYERS.keys())
@torch.no_grad()
def test_grouped_is_repeated(config: ModelConfig) -> None:
    config = config.resolved()
    model = model_of(config)
    for layer in range(config.n_layer):
        with look(model, *read(model, layer).values()) as seen:
            model(ids_for(config, 1, 12))
        own = groups(config.n_head, config.n_kv_head)
        assert grouped_is_repeated(model, layer, seen, own) <= TOLERANCE
        if 1 < config.n_kv_head < config.n_head:
            assert grouped_is_repeated(model, layer, seen, tiled(config.n_head, config.n_kv_head)) > 100 * TOLERANCE


def test_groups_are_neighbours() -> None:
    assert groups(6, 2).tolist() == [0, 0, 0, 1, 1, 1] and tiled(6, 2).tolist() == [0, 1, 0, 1, 0, 1]
    assert groups(6, 2).bincount().tolist() == [3, 3] and choices(6) == [1, 2, 3, 6]


@pytest.mark.parametrize("name", ["llama", "llama with bias", "multi-query", "gpt", "window"])
def test_what_sharing_saves(name: str) -> None:
    config = ARCHITECTURES[name].resolved()
    for g in choices(config.n_head):
        model = Transformer(replace(config, n_kv_head=g))
        counted = sum(p.numel() for block in model.blocks for x in (block.attn.k, block.attn.v) for p in x.parameters())
        assert parameters_with(config, g) == counted
        assert bytes_with(config, g, 19, 4) == KVCache(model.config, 1, 19).nbytes
        assert (
            bytes_with(config, g, 19, 4) * config.n_head
            == cache_bytes(replace(config, n_kv_head=config.n_head), 1, 19) * g
        )


def test_time_is_measured() -> None:
    assert seconds_with(LLAMA, 2, 50, torch.float32, torch.device("cpu")) > 0
