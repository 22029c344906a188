"""Fused passes give what plain norms and MLPs do, in value and gradient, and run only where they may."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fathom.anatomy.swap import parts, swap
from fathom.backend.training import FusedGeluMLP, FusedRMSNorm, recompute_blocks, use_fused_passes
from fathom.errors import FathomError
from fathom.model.attention import Attention, attend
from fathom.model.config import ModelConfig
from fathom.model.mlp import GeluMLP
from fathom.model.norm import RMSNorm
from fathom.model.presets import GPT2, LLAMA2_7B
from fathom.model.transformer import Block, Transformer
from fathom.native import kernels
from fathom.native.build import compiler
from tests.backend.parts import Sharper, Shifted

SMALL: dict[str, Any] = {"vocab_size": 50, "n_layer": 2, "n_head": 2, "d_model": 32, "d_ff": 48, "context_length": 16}
CONFIGS = {
    "gelu": replace(GPT2, **SMALL),
    "relu2": replace(GPT2, **SMALL, mlp="relu2"),
    "swiglu": replace(LLAMA2_7B, **SMALL, n_kv_head=2),
    "qk_norm": replace(LLAMA2_7B, **SMALL, n_kv_head=2, qk_norm="on"),
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
def test_the_same_as_the_plain_parts(name: str) -> None:
    model, ids = frozen(CONFIGS[name]), torch.randint(0, 50, (2, 16))
    long = results(model, ids)
    state = list(model.state_dict())
    use_fused_passes(model)
    for ours, theirs in zip(results(model, ids), long):
        assert (ours.float() - theirs.float()).norm() <= 0.02 * theirs.float().norm()
    assert list(model.state_dict()) == state


@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")
def test_native_passes_run_where_they_may_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FATHOM_NATIVE", "auto")
    model, ids = frozen(CONFIGS["swiglu"]), torch.randint(0, 50, (2, 16))
    use_fused_passes(model)
    called: list[str] = []
    call = kernels.call

    def watched(name: str, *rest: Any) -> None:
        called.append(name)
        call(name, *rest)

    monkeypatch.setattr(kernels, "call", watched)
    results(model, ids)
    assert called.count("rms_norm_forward") == 5
    assert called.count("swiglu_forward") == called.count("swiglu_backward") == 2
    called.clear()
    model.blocks[0].mlp_norm.weight.requires_grad_()
    results(model, ids)
    assert called.count("rms_norm_forward") == 4
    called.clear()
    monkeypatch.setenv("FATHOM_NATIVE", "off")
    results(model, ids)
    results(model.float(), ids)
    assert not called


def test_in_fp32_nothing_changes() -> None:
    model, ids = frozen(CONFIGS["qk_norm"]).float(), torch.randint(0, 50, (2, 16))
    long = results(model, ids)
    use_fused_passes(model)
    assert all(map(torch.equal, results(model, ids), long))


class Doubled(GeluMLP):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def mine(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, dropout: float) -> Tensor:
    return attend(q, k, v, visible, dropout) / 2


OWN = {"mlp": {GeluMLP: Doubled}, "norm": {RMSNorm: Shifted}, "attention": {Attention: Sharper}, "attend": mine}


@pytest.mark.parametrize("own", OWN.values(), ids=OWN)
def test_a_part_of_its_own_class_trains_as_itself(own: Any) -> None:
    """Not as the class that it descends from, which has a fused form."""
    config = replace(CONFIGS["gelu"], norm="rms")
    model, ids = frozen(config), torch.randint(0, 50, (2, 16))
    swap(model, **{"attend": own} if own is mine else {"kinds": own})
    expected = results(model, ids)
    use_fused_passes(model)
    for ours, theirs in zip(results(model, ids), expected):
        assert (ours.float() - theirs.float()).norm() <= 0.02 * theirs.float().norm()
    fused = {GeluMLP: FusedGeluMLP, RMSNorm: FusedRMSNorm}
    assert all(not parts(model, kind) for kind in fused)  # the others have taken their places
    assert all((own is not mine and kind in own) or parts(model, new) for kind, new in fused.items())
    assert all(block.attn.attend is mine for block in model.blocks) == (own is mine)


def test_twice_is_once_and_everything_can_be_undone() -> None:
    model, ids = frozen(CONFIGS["qk_norm"]), torch.randint(0, 50, (2, 16))
    plain, kinds = results(model, ids), [type(part) for part in model.modules()]
    first, blocks = use_fused_passes(model), recompute_blocks(model)
    assert not use_fused_passes(model).names and not recompute_blocks(model).names
    fused = results(model, ids)
    assert blocks.names == ["blocks.0", "blocks.1"] and len(first.names) == 2 + 2 * 5 + 1
    blocks.undo()
    assert all(map(torch.equal, results(model, ids), fused))  # what is computed twice is the same
    first.undo()
    assert all(map(torch.equal, results(model, ids), plain)) and kinds == [type(part) for part in model.modules()]


def test_a_block_of_its_own_class_is_not_recomputed_as_its_parent() -> None:
    class Deeper(Block):
        pass

    model = frozen(CONFIGS["gelu"])
    swap(model, {Block: Deeper}, names=["blocks.1"])
    with pytest.raises(FathomError, match=r"blocks\.1 is a Deeper, which descends from Block"):
        recompute_blocks(model)
    assert parts(model, Block) == ["blocks.0"]
    assert recompute_blocks(Transformer(replace(GPT2, **SMALL | {"n_layer": 0}))).names == []
