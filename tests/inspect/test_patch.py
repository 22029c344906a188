"""Patching: all of a layer gives the other run, a sweep is its cells, unlike prompts are one line."""

import pytest
import torch

from fathom.errors import FathomError
from fathom.inspect import patch
from fathom.inspect.edit import edit, replace
from fathom.inspect.identities import broken
from fathom.inspect.look import Seen, look
from fathom.inspect.patch import patched, patching_a_layer, recovered, require_alike, sweep, tensor
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from tests.architectures import ARCHITECTURES, LLAMA, ids_for, model_of

LAYERED = {name: config for name, config in ARCHITECTURES.items() if config.n_layer}
with_layers = pytest.mark.parametrize("config", LAYERED.values(), ids=LAYERED.keys())


@torch.no_grad()
def opened(config: ModelConfig) -> tuple[Transformer, torch.Tensor, Seen, torch.Tensor]:
    """A model, a prompt, what is computed for another, and the logits of the first."""
    model, ids = model_of(config, std=0.2), ids_for(config, 1)
    with look(model, "**") as other:
        model(ids_for(config, 1))
    return model, ids, other, model(ids)[0]


@with_layers
def test_all_of_layer_0_gives_the_other_run(config: ModelConfig) -> None:
    model, ids, other, _ = opened(config)
    assert torch.equal(patched(model, ids, other, "blocks.0")[0], other["logits"][0])
    assert not broken("patching_a_layer", patching_a_layer(model, ids, other))


def test_half_a_layer_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids, other, _ = opened(LLAMA)

    def half(x: torch.Tensor, rows: object, there: torch.Tensor) -> torch.Tensor:
        x[:, :5] = there[:5]
        return x

    monkeypatch.setattr(patch, "_put", half)
    assert broken("patching_a_layer", patching_a_layer(model, ids, other))


@with_layers
@torch.no_grad()
def test_a_cell_of_the_sweep_is_its_patch(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch, "AT_ONCE", 4 * 11 * 37)
    model, ids, other, _ = opened(config)
    for what in ("stream", "attn", *(["mlp"] if config.mlp != "none" else [])):
        found, name = sweep(model, ids, other, what, -1), tensor(model.config, 1, what)  # type: ignore[arg-type]
        assert found.shape == (3, 11, 37)

        def one(x: torch.Tensor, name: str = name) -> torch.Tensor:
            x[0, 6] = other[name][0, 6]
            return x

        with edit(model, replace(name, one)):
            torch.testing.assert_close(found[1, 6], model(ids)[0, -1], atol=1e-4, rtol=1e-4)
    heads = sweep(model, ids, other, "heads", -1)
    with edit(model, replace("blocks.2.attn.z", lambda x: other["blocks.2.attn.z"][..., 3, :], head=3)):
        torch.testing.assert_close(heads[2, 3], model(ids)[0, -1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_what_was_recovered() -> None:
    model, ids, other, logits = opened(LLAMA)
    here, there = logits[-1], other["logits"][0, -1]
    assert recovered(here, here, there) == 0 and recovered(there, here, there) == 1
    found = recovered(sweep(model, ids, other, "stream", -1), here, there)
    torch.testing.assert_close(found[-1, -1], torch.tensor(1.0))  # the last stream at the last token says it all
    assert found[-1, :-1].abs().max() < 1e-5  # and the others nothing any more


def test_unlike_prompts_are_one_line() -> None:
    with pytest.raises(FathomError, match="the second prompt has 9 tokens and the first 11"):
        require_alike(ids_for(LLAMA, 1), ids_for(LLAMA, 1, 9))
    ids = ids_for(LLAMA, 1)
    with pytest.raises(FathomError, match="same tokens"):
        require_alike(ids, ids.clone())
