"""One layer with a step left out: nothing changes where none is, and the identity of that step breaks where one is."""

import pytest
import torch

from fathom.inspect import identities
from fathom.inspect.identities import broken
from fathom.inspect.look import look
from fathom.inspect.microscope import Change, after, around, head_biases, head_weights, one_layer
from fathom.model.config import ModelConfig
from tests.architectures import ARCHITECTURES, GPT, LLAMA, ids_for, model_of

WITH_LAYERS = {name: config for name, config in ARCHITECTURES.items() if config.n_layer}
every_architecture = pytest.mark.parametrize("config", WITH_LAYERS.values(), ids=WITH_LAYERS.keys())
IDENTITIES = ("pattern_is_causal", "scores_are_products", "heads_sum_to_attention")


def off(config: ModelConfig, change: Change, layer: int = 1, std: float = 0.3) -> dict[str, list[str]]:
    """What is broken in the layer that is changed."""
    model, ids = model_of(config, std=std), ids_for(config, 1)
    seen = one_layer(model, ids, layer, change)
    found = {name: broken(name, getattr(identities, name)(model, seen, [layer])) for name in IDENTITIES}
    return {name: parts for name, parts in found.items() if parts}


@every_architecture
@torch.no_grad()
def test_unchanged_it_is_the_model(config: ModelConfig) -> None:
    model, ids = model_of(config, std=0.3), ids_for(config, 1)
    with look(model, *around(model, 1), "logits") as seen:
        model(ids)
    split = one_layer(model, ids, 1, Change(split=True), "logits")
    assert set(split) == set(seen)
    for name, x in seen.items():
        torch.testing.assert_close(split[name], x, atol=1e-4, rtol=1e-4)
    assert not off(config, Change(split=True)) and not Change(split=True).wrong


@every_architecture
def test_without_a_mask_later_keys_are_seen(config: ModelConfig) -> None:
    assert "later keys get nothing" in off(config, Change(no_mask=True))["pattern_is_causal"]


@pytest.mark.parametrize("config", [GPT, LLAMA, ARCHITECTURES["sandwich"], ARCHITECTURES["alibi"]])
def test_without_the_root_scores_are_no_quotients(config: ModelConfig) -> None:
    assert off(config, Change(no_root=True)) == {"scores_are_products": ["q k / sqrt(c) = score"]}


@pytest.mark.parametrize("name", [name for name, config in WITH_LAYERS.items() if config.position == "rope"])
def test_rotated_values_are_no_longer_those_of_the_pattern(name: str) -> None:
    config = ARCHITECTURES[name]
    layer = next(layer for layer in range(3) if config.layers.kind(layer) != "n")
    assert off(config, Change(rotate_v=True), layer) == {"heads_sum_to_attention": ["pattern v = z"]}


def test_without_rotation_there_is_nothing_to_rotate() -> None:
    assert not off(GPT, Change(rotate_v=True))


@every_architecture
@torch.no_grad()
def test_weights_of_a_head_make_its_numbers(config: ModelConfig) -> None:
    model, ids = model_of(config, std=0.3), ids_for(config, 1)
    with look(model, *around(model, 2)) as seen:
        model(ids)
    for head in (0, 5):
        weights, biases = head_weights(model, 2, head), head_biases(model, 2, head)
        group = head * model.config.n_kv_head // 6
        norm = seen["blocks.2.attn_norm"][0]
        for name, at in (("q", head), ("k", group), ("v", group)):
            made = norm @ weights[name].mT + biases.get(name, 0)
            torch.testing.assert_close(made, seen[f"blocks.2.attn.{name}"][0, :, at], atol=1e-4, rtol=1e-4)
    total = sum(seen["blocks.2.attn.z"][0, :, head] @ head_weights(model, 2, head)["out"] for head in range(6))
    bias = model.blocks[2].attn.out.bias
    torch.testing.assert_close(total + (0 if bias is None else bias), seen["blocks.2.attn"][0], atol=1e-4, rtol=1e-4)


def test_the_model_is_left_as_it_was() -> None:
    model, ids = model_of(LLAMA), ids_for(LLAMA, 1)
    before = model(ids)
    changed = one_layer(model, ids, 0, Change(no_mask=True), "logits")["logits"]
    assert torch.equal(model(ids), before) and not torch.allclose(changed, before)


def test_the_stream_after_attention() -> None:
    assert after(model_of(LLAMA), 1) == "blocks.1.resid_mid"
    assert after(model_of(ARCHITECTURES["attention alone"]), 1) == "blocks.1"
