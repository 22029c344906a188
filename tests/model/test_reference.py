"""Every named activation against the NumPy float64 forward, written from the papers."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from fathom.inspect.look import look
from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from tests.architectures import ARCHITECTURES, BEYOND, LLAMA, configs, ids_for, model_of
from tests.reference import forward


def weights(model: Transformer) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def compare(config: ModelConfig, tolerance: float) -> None:
    torch.manual_seed(0)
    model, ids = model_of(config, std=0.3), ids_for(config)
    with torch.no_grad(), look(model, "**") as seen:
        model(ids)
    expected = forward(model.config, weights(model), ids.numpy())
    assert set(seen) <= set(expected)
    for name, x in seen.items():
        assert x.shape == expected[name].shape, name
        atol = tolerance * max(1.0, np.abs(expected[name][np.isfinite(expected[name])]).max(initial=0))
        np.testing.assert_allclose(x.numpy(), expected[name], rtol=tolerance, atol=atol, err_msg=name)


@pytest.mark.parametrize("config", (ARCHITECTURES | BEYOND).values(), ids=(ARCHITECTURES | BEYOND).keys())
def test_every_architecture(config: ModelConfig) -> None:
    compare(config, tolerance=2e-5)


@given(config=configs())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
def test_random_architectures(config: ModelConfig) -> None:
    compare(config, tolerance=1e-4)


def interleave(model: Transformer) -> dict[str, np.ndarray]:
    """The weights as Meta stores them: of each head's rows of q and k, 2i and 2i + 1 are a pair."""
    tensors = weights(model)
    for name in tensors:
        if name.endswith(("attn.q.weight", "attn.k.weight")):
            heads = tensors[name].reshape(-1, 2, model.config.head_dim // 2, model.config.d_model)
            tensors[name] = heads.transpose(0, 2, 1, 3).reshape(tensors[name].shape)
    return tensors


def test_interleaved_weights_under_interleaved_rotation_are_the_same_model() -> None:
    """Permuted once it is the same model; half-split rotation on interleaved weights is another one."""
    model, ids = model_of(LLAMA), ids_for(LLAMA)
    logits = model(ids).detach().numpy()
    right = forward(model.config, interleave(model), ids.numpy(), interleaved=True)["logits"]
    wrong = forward(model.config, interleave(model), ids.numpy(), interleaved=False)["logits"]
    np.testing.assert_allclose(logits, right, atol=1e-4)
    assert np.abs(logits - wrong).max() > 1e-2
