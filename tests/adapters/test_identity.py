"""Identities of adapters hold for every architecture with linear layers, and each goes red under a fault of its own."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fathom.adapters import lora, options
from fathom.adapters.layer import Lora, LoraLinear
from fathom.adapters.merge import adapter_is_its_delta
from fathom.inspect.identities import TOLERANCES, Residuals, broken
from tests.architectures import ARCHITECTURES, GPT, LLAMA, ids_for, model_of

Patch = pytest.MonkeyPatch


def residuals(name: str) -> Residuals:
    config = ARCHITECTURES[name]
    return adapter_is_its_delta(model_of(config, std=0.2), ids_for(config))


def only(residuals: Residuals, *parts: int) -> None:
    names = list(TOLERANCES["adapter_is_its_delta"])
    assert broken("adapter_is_its_delta", residuals) == [names[part] for part in parts], residuals


@pytest.mark.parametrize("name", [name for name, config in ARCHITECTURES.items() if config.n_layer])
def test_it_holds(name: str) -> None:
    only(residuals(name))


def test_scale_alpha_instead_of_alpha_over_r(monkeypatch: Patch) -> None:
    """Everywhere: only the equation itself can tell."""
    monkeypatch.setattr(options, "lora_scale", lambda rank, alpha, rslora: alpha)
    only(residuals("llama"), 2)


def test_scale_alpha_in_the_pass_and_not_in_the_merge(monkeypatch: Patch) -> None:
    def forward(self: Lora, x: Tensor, *_: Any) -> Tensor:
        return F.linear(F.linear(x, self.a), self.b) * 5.0

    monkeypatch.setattr(Lora, "forward", forward)
    only(residuals("gpt"), 1)


def test_b_that_does_not_begin_at_zero(monkeypatch: Patch) -> None:
    attach = lora.attach

    def drawn(model: Any, adapters: dict[str, Lora], name: str) -> None:
        for adapter in adapters.values():
            torch.nn.init.normal_(adapter.b, std=0.01)
        attach(model, adapters, name)

    monkeypatch.setattr(lora, "attach", drawn)
    only(residuals("llama"), 0)


def test_a_change_of_too_high_a_rank(monkeypatch: Patch) -> None:
    delta = LoraLinear.delta

    def noisy(self: LoraLinear, name: str) -> Tensor:
        return delta(self, name) + 0.01 * torch.eye(self.out_features, self.in_features)

    monkeypatch.setattr(LoraLinear, "delta", noisy)
    only(residuals("gpt"), 1, 2, 3)


def test_the_model_stays_as_it_is() -> None:
    model = model_of(GPT)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    adapter_is_its_delta(model, ids_for(GPT))
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert list(model.state_dict()) == list(before) and LLAMA.n_layer == 3
