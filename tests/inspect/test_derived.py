"""What follows from recorded tensors, against the NumPy reference or written out anew."""

import numpy as np
import pytest
import torch

from fathom.inspect.derived import before_cap, contributions, head_result, last_stream, lens, norm_scale, through_norm
from fathom.inspect.look import look
from fathom.model.config import ModelConfig
from fathom.model.norm import LayerNorm, RMSNorm
from tests.architectures import ARCHITECTURES, GPT, LLAMA, ids_for, model_of
from tests.reference import forward


@pytest.mark.parametrize("norm", [LayerNorm(7, 1e-5, True), RMSNorm(7, 1e-2), torch.nn.Identity()])
def test_a_norm_is_linear_once_its_scale_is_known(norm: torch.nn.Module) -> None:
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    x, y = torch.randn(3, 5, 7), torch.randn(3, 5, 7)
    scale, bias = norm_scale(norm, x + y), getattr(norm, "bias", None)
    parts = through_norm(norm, x, scale) + through_norm(norm, y, scale) + (0 if bias is None else bias)
    torch.testing.assert_close(parts, norm(x + y))


@pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
@torch.no_grad()
def test_contributions_sum_to_every_logit(config: ModelConfig) -> None:
    model, ids = model_of(config), ids_for(config)
    with look(model, "**") as seen:
        logits = model(ids)
    for at in (0, 5, -1):
        for token in (0, 17):
            parts = contributions(model, seen, torch.full((2,), token), at)
            total = torch.stack(list(parts.values())).sum(0)
            torch.testing.assert_close(total, before_cap(model, logits)[:, at, token], atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_writers_are_told_apart() -> None:
    model, ids = model_of(GPT), ids_for(GPT)
    with look(model, "**") as seen:
        model(ids)
    parts = contributions(model, seen, torch.tensor([3, 4]))
    layer = [f"blocks.0.attn.head.{h}" for h in range(6)] + ["blocks.0.attn.bias", "blocks.0.mlp", "blocks.0.mlp.bias"]
    assert list(parts)[:11] == ["embed", "position", *layer] and list(parts)[-1] == "final_norm.bias"


@torch.no_grad()
def test_head_results_against_the_reference() -> None:
    model, ids = model_of(LLAMA), ids_for(LLAMA)
    with look(model, "**.z") as seen:
        model(ids)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    z = forward(model.config, weights, ids.numpy())["blocks.1.attn.z"][:, :, 4]
    expected = z @ weights["blocks.1.attn.out.weight"][:, 16:20].T
    result = head_result(model.blocks[1].attn, seen["blocks.1.attn.z"], 4)
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
@torch.no_grad()
def test_the_lens_on_the_last_stream_is_the_model(config: ModelConfig) -> None:
    model, ids = model_of(config), ids_for(config)
    with look(model, "**") as seen:
        logits = model(ids)
    torch.testing.assert_close(lens(model, last_stream(model, seen)), logits)
