"""The lens: its last row is the model itself, its numbers are those of the float64 reference, a wrong one is off."""

import numpy as np
import pytest
import torch

from fathom.inspect import lens as lenses
from fathom.inspect.derived import last_stream
from fathom.inspect.lens import faults, lens, read
from fathom.inspect.look import look
from fathom.model.config import ModelConfig
from tests.architectures import ARCHITECTURES, GPT, LLAMA, ids_for, model_of
from tests.reference import forward, norm

every_architecture = pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())


@every_architecture
@torch.no_grad()
def test_the_last_row_is_the_model(config: ModelConfig) -> None:
    model, ids = model_of(config), ids_for(config)
    with look(model, "**") as seen:
        logits = model(ids)
    torch.testing.assert_close(lens(model, last_stream(model, seen)), logits)
    found = read(model, seen)
    assert found.top.shape == (config.n_layer + 1, 11) and found.off < 1e-5
    p = logits[0].softmax(-1)
    assert torch.equal(found.top[-1], p.argmax(-1))
    torch.testing.assert_close(found.p_top[-1], p.max(-1).values)
    torch.testing.assert_close(found.p_final[-1], p.max(-1).values)
    torch.testing.assert_close(found.entropy[-1], torch.distributions.Categorical(p).entropy())
    assert found.kl[-1].abs().max() < 1e-5 and (found.kl > -1e-5).all()


@pytest.mark.parametrize("config", [GPT, LLAMA], ids=["gpt", "llama"])
@torch.no_grad()
def test_every_row_against_the_reference(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lenses, "AT_ONCE", 4 * 37 * 3)  # so that positions are read three at a time
    model, ids = model_of(config, std=0.2), ids_for(config)
    with look(model, "**") as seen:
        model(ids)
    found = read(model, seen, watch=[7])
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}
    expected = forward(model.config, w, ids.numpy())
    rows = [expected["blocks.0.resid_pre"], *(expected[f"blocks.{layer}"] for layer in range(3))]
    final = softmax(expected["logits"][0])
    for row, stream in enumerate(rows):
        normed = norm(model.config, w, "final_norm", stream[0])
        p = softmax(normed @ w["embed.weight" if config.tie_embeddings else "unembed.weight"].T)
        np.testing.assert_allclose(found.p_top[row].numpy(), p.max(-1), atol=1e-5)
        np.testing.assert_allclose(found.p_final[row].numpy(), p[np.arange(11), final.argmax(-1)], atol=1e-5)
        np.testing.assert_allclose(found.entropy[row].numpy(), -(p * np.log(p)).sum(-1), atol=1e-4)
        np.testing.assert_allclose(found.kl[row].numpy(), (final * np.log(final / p)).sum(-1), atol=1e-4)
        for at in range(11):
            order = np.argsort(-p[at]).tolist()
            assert found.watched[at, 0] == 7
            ranks = [1 + order.index(token) for token in found.watched[at].tolist()]
            assert found.ranks[at, :, row].tolist() == ranks


@torch.no_grad()
def test_tokens_are_offered_by_their_best_rank_at_any_row() -> None:
    model, ids = model_of(LLAMA), ids_for(LLAMA)
    with look(model, "**") as seen:
        model(ids)
    found = read(model, seen)
    every = read(model, seen, watch=range(37)).ranks  # (t, V, rows), in the order of ids
    best = every.min(-1).values
    for at in range(11):
        offered = found.watched[at]
        assert len(offered.unique()) == lenses.OFFERED and offered[0] == found.top[-1, at]
        left_out = [token for token in range(37) if token not in offered]
        assert best[at, offered].max() <= best[at, left_out].min()


@every_architecture
@torch.no_grad()
def test_a_wrong_lens_is_off(config: ModelConfig) -> None:
    model = model_of(config, std=0.2)
    with look(model, "**") as seen:
        model(ids_for(config))
    for fault in faults(model):
        assert read(model, seen, fault=fault).off > 1e-3, fault
    for harmless in {"no norm", "normed twice"} - set(faults(model)):
        assert read(model, seen, fault=harmless).off < 1e-3


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
