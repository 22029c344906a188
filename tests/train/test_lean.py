"""The short way through norms and MLPs is the long one, in value and gradient; and where it may not go, it does not."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fathom.backend.training import slim
from fathom.model.config import ModelConfig
from fathom.model.presets import GPT2, LLAMA2_7B
from fathom.model.transformer import Transformer
from fathom.native import passes
from fathom.native.build import compiler

SMALL: dict[str, Any] = {"vocab_size": 50, "n_layer": 2, "n_head": 2, "d_model": 32, "d_ff": 48, "context_length": 16}
CONFIGS = {
    "gelu": replace(GPT2, **SMALL),
    "relu2": replace(GPT2, **SMALL, mlp="relu2"),
    "swiglu": replace(LLAMA2_7B, **SMALL, n_kv_head=2),
    "qk_norm": replace(LLAMA2_7B, **SMALL, n_kv_head=2, qk_norm=True),
}


def frozen(config: ModelConfig) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(config).bfloat16().requires_grad_(False)
    model.embed.weight.requires_grad_(not config.resolved().tie_embeddings)
    model.blocks[0].attn.q.weight.requires_grad_()
    return model


def results(model: Transformer, ids: Tensor) -> list[Tensor]:
    logits = model(ids)
    learned = [p for p in model.parameters() if p.requires_grad]
    return [logits.detach(), *torch.autograd.grad(logits.float().square().sum(), learned)]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_as_the_long_way(name: str) -> None:
    model, ids = frozen(CONFIGS[name]), torch.randint(0, 50, (2, 16))
    long = results(model, ids)
    state = list(model.state_dict())
    slim(model)
    for ours, theirs in zip(results(model, ids), long):
        assert (ours.float() - theirs.float()).norm() <= 0.02 * theirs.float().norm()
    assert list(model.state_dict()) == state


@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")
def test_it_is_gone_where_it_is_open_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FATHOM_NATIVE", "auto")
    model, ids = frozen(CONFIGS["swiglu"]), torch.randint(0, 50, (2, 16))
    slim(model)
    called: list[str] = []
    call = passes.call

    def watched(name: str, *rest: Any) -> None:
        called.append(name)
        call(name, *rest)

    monkeypatch.setattr(passes, "call", watched)
    results(model, ids)
    assert called.count("rms") == 5 and called.count("swiglu") == called.count("swiglu_back") == 2
    called.clear()
    model.blocks[0].mlp_norm.weight.requires_grad_()
    results(model, ids)
    assert called.count("rms") == 4
    called.clear()
    monkeypatch.setenv("FATHOM_NATIVE", "off")
    results(model, ids)
    results(model.float(), ids)
    assert not called


def test_in_fp32_nothing_changes() -> None:
    model, ids = frozen(CONFIGS["qk_norm"]).float(), torch.randint(0, 50, (2, 16))
    long = results(model, ids)
    slim(model)
    assert all(map(torch.equal, results(model, ids), long))
