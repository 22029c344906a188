"""Direct logit attribution against the definition of the logit, on every architecture."""

import numpy as np
import pytest
import torch

from fathom.inspect.attribute import before_cap, contributions, norm_scale, through_norm
from fathom.inspect.look import look
from fathom.model.config import ModelConfig
from fathom.model.norm import LayerNorm, RMSNorm
from tests.architectures import ARCHITECTURES, GPT, ids_for, model_of
from tests.reference import forward

every_architecture = pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())


@pytest.mark.parametrize("norm", [LayerNorm(7, 1e-5, True), RMSNorm(7, 1e-2), torch.nn.Identity()])
def test_a_norm_is_linear_once_its_scale_is_known(norm: torch.nn.Module) -> None:
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    x, y = torch.randn(3, 5, 7), torch.randn(3, 5, 7)
    scale, bias = norm_scale(norm, x + y), getattr(norm, "bias", None)
    parts = through_norm(norm, x, scale) + through_norm(norm, y, scale) + (0 if bias is None else bias)
    torch.testing.assert_close(parts, norm(x + y))


@every_architecture
@torch.no_grad()
def test_contributions_sum_to_every_logit(config: ModelConfig) -> None:
    model, ids = model_of(config), ids_for(config)
    with look(model, "**") as seen:
        logits = model(ids)
    tokens = torch.tensor([0, 17]).expand(*ids.shape, -1)  # (b, t, n)
    expected = before_cap(model, logits)[..., [0, 17]]
    for at in (0, 5, -1, slice(None)):
        parts = contributions(model, seen, tokens[:, at], at)
        total = torch.stack(list(parts.values())).sum(0)
        torch.testing.assert_close(total, expected[:, at], atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_writers_are_told_apart() -> None:
    model, ids = model_of(GPT), ids_for(GPT)
    with look(model, "**") as seen:
        model(ids)
    parts = contributions(model, seen, torch.tensor([[3], [4]]))
    layer = [f"blocks.0.attn.head.{h}" for h in range(6)] + ["blocks.0.attn.bias", "blocks.0.mlp", "blocks.0.mlp.bias"]
    assert list(parts)[:11] == ["embed", "position", *layer] and list(parts)[-1] == "final_norm.bias"


@torch.no_grad()
def test_the_logit_is_taken_apart_as_the_reference_says() -> None:
    """Each head's part, from the float64 forward: z_h W_out,h through the final LayerNorm, times the token's row."""
    model, ids = model_of(GPT, std=0.2), ids_for(GPT)
    with look(model, "**") as seen:
        model(ids)
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}
    expected = forward(model.config, w, ids.numpy())
    stream = expected["blocks.2"][0, -1]
    scale = 1 / np.sqrt(stream.var() + model.config.norm_eps)
    parts = contributions(model, seen, torch.tensor([[3], [3]]))
    for layer, head in ((0, 0), (1, 4), (2, 5)):
        z = expected[f"blocks.{layer}.attn.z"][0, -1, head]
        part = w[f"blocks.{layer}.attn.out.weight"][:, head * 4 : head * 4 + 4] @ z
        said = ((part - part.mean()) * scale * w["final_norm.weight"]) @ w["embed.weight"][3]
        assert abs(parts[f"blocks.{layer}.attn.head.{head}"][0, 0].item() - said) < 1e-4


@pytest.mark.parametrize("name", ["gpt", "llama", "sandwich", "post, layer norm", "scaled, tied, biased"])
@torch.no_grad()
def test_a_wrong_sum_is_off(name: str) -> None:
    model, ids = model_of(ARCHITECTURES[name], std=0.2), ids_for(ARCHITECTURES[name])
    with look(model, "**") as seen:
        logits = before_cap(model, model(ids))[:, -1, 5]
    tokens = torch.full((2, 1), 5)
    has_bias = any(part.endswith("bias") for part in contributions(model, seen, tokens))
    for fault in ("norms", *(["biases"] * has_bias)):
        total = torch.stack(list(contributions(model, seen, tokens, fault=fault).values())).sum(0)[:, 0]
        assert (total - logits).abs().max() > 1e-2, fault
