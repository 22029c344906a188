"""What changed a model: a cut loses the tail's energy, the full rank gives the fine-tune's loss, and an adapter that
begins at zero gets no gradient."""

import copy

import pytest
import torch
import torch.nn.functional as F

from fathom.adapters import lora
from fathom.adapters.options import LoraOptions
from fathom.adapters.svd import SVD, svd
from fathom.errors import FathomError
from fathom.inspect.identities import broken
from fathom.lab.changed import (
    STARTS,
    Decomposed,
    adapted,
    cut_loses_the_tail,
    gradients_at_init,
    logits,
    ranks_up_to,
    towards,
    unchanged,
)
from fathom.model.transformer import Transformer
from fathom.quant.model import quantize_model
from tests.architectures import ARCHITECTURES, LLAMA, ids_for, model_of

every_architecture = pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())


def loss_of(model: Transformer, ids: torch.Tensor) -> float:
    with torch.no_grad():
        return F.cross_entropy(model(ids)[0, :-1], ids[0, 1:]).item()


def near(expected: float, within: float = 1e-4) -> object:
    """Random models have losses of up to a hundred nats, in fp32."""
    return pytest.approx(expected, abs=within * max(1, expected))


def tuned_from(model: Transformer) -> Transformer:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    return other


def with_adapter(model: Transformer, rank: int = 2, targets: tuple[str, ...] = ("attn.q", "mlp.*")) -> Transformer:
    model = copy.deepcopy(model)
    lora.add(model, LoraOptions(rank=rank, alpha=5.0, targets=targets))
    with torch.no_grad():
        for parameter in lora.parameters(model):
            parameter.normal_(std=0.2)
    return model


@every_architecture
def test_the_full_rank_of_a_change_is_the_fine_tune(config) -> None:
    model, ids = model_of(config), ids_for(config, 1)
    tuned = tuned_from(model)
    found = Decomposed(towards(model, tuned), ids)
    expected = loss_of(tuned, ids)
    assert found.cut_change(found.full_rank) == near(expected)
    assert found.cut_weights(found.full_rank) == near(expected)
    assert found.scaled(1.0) == near(expected)
    assert found.cut_change(0) != pytest.approx(expected, abs=1e-4)
    with torch.no_grad():  # rank 0 is the old matrices with the new norms and biases
        half = copy.deepcopy(tuned)
        for name, layer in found.changed.layers.items():
            half.get_submodule(name).weight.copy_(layer.weight)
    assert found.cut_change(0) == near(loss_of(half, ids))


def test_the_change_of_an_adapter_is_in_factors() -> None:
    model, ids = model_of(LLAMA), ids_for(LLAMA, 1)
    tuned = with_adapter(model)
    changed = adapted(tuned)
    found = Decomposed(changed, ids)
    assert set(changed.names) == {
        f"blocks.{i}.{part}" for i in range(3) for part in ("attn.q", "mlp.gate", "mlp.up", "mlp.down")
    }
    assert all(len(each.s) == 2 for each in found.changes.values())
    part = lora.wrapped(tuned)["blocks.1.attn.q"]
    assert torch.allclose(changed.delta("blocks.1.attn.q"), part.weight - part.base.weight, atol=1e-6)
    assert found.cut_change(2) == near(loss_of(tuned, ids))
    assert found.cut_change(0) == near(loss_of(model, ids))
    assert found.scaled(0.0) == near(loss_of(model, ids))
    lora.scale(tuned, "default", 0.3)
    assert found.scaled(0.3) == near(loss_of(tuned, ids))


def test_two_adapters_add_up_and_dora_is_a_whole_matrix() -> None:
    model, ids = model_of(LLAMA), ids_for(LLAMA, 1)
    tuned = with_adapter(model)
    lora.add(tuned, LoraOptions(rank=3, targets=("attn.q",), dora=True), "other")
    with torch.no_grad():
        for parameter in lora.parameters(tuned, "other"):
            parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    found = Decomposed(adapted(tuned), ids)
    assert found.cut_change(found.full_rank) == near(loss_of(tuned, ids))


@pytest.mark.parametrize("scheme", ["int8", "nf4"])
def test_packed_bases_are_measured_in_their_own_numbers(scheme: str) -> None:
    model, ids = model_of(LLAMA), ids_for(LLAMA, 1)
    quantize_model(model, scheme)
    tuned = with_adapter(model)
    found = Decomposed(adapted(tuned), ids)
    assert found.cut_change(2) == near(loss_of(tuned, ids), 1e-3)


def test_tied_ends_are_cut_together() -> None:
    config = ARCHITECTURES["multi-query"]
    model, ids = model_of(config), ids_for(config, 1)
    found = Decomposed(unchanged(model), ids)
    assert "unembed" not in found.changed.names and not found.changes
    assert found.cut_weights(found.full_rank) == near(loss_of(model, ids))
    cut = copy.deepcopy(model)
    with torch.no_grad():
        for name in found.changed.names:
            part = cut.get_submodule(name)
            part.weight.copy_(svd(part.weight).cut(3).matrix())
    assert found.cut_weights(3) == near(loss_of(cut, ids))


def test_models_of_other_shapes_have_no_change() -> None:
    model = model_of(LLAMA)
    with pytest.raises(FathomError, match="other names or shapes"):
        towards(model, model_of(ARCHITECTURES["gpt"]))
    with pytest.raises(FathomError, match="same matrices"):
        towards(model, copy.deepcopy(model))
    with pytest.raises(FathomError, match="no active adapter"):
        adapted(model)


@every_architecture
def test_an_adapter_begins_without_a_gradient_for_a(config) -> None:
    model, ids = model_of(config), ids_for(config, 1)
    layer = list(unchanged(model).layers)[-1]
    before = {name: x.clone() for name, x in model.state_dict().items()}
    found = gradients_at_init(model, ids, layer, 2)
    assert found[0, 0] == 0 and (found[1] == 0).all() and len(found) == len(STARTS)
    assert found[0, 1] > 0 and (found[2] > 0).all()
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_nothing_reaches_an_expert_that_no_token_chose() -> None:
    config = ARCHITECTURES["experts"]
    model, ids = model_of(config), ids_for(config, 1)[:, :2]  # 2 tokens choose at most 4 of 5 experts
    experts = [name for name in unchanged(model).layers if name.startswith("blocks.0.mlp.")]
    reached = [bool(gradients_at_init(model, ids, name, 2).any()) for name in experts]
    assert any(reached) and not all(reached)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert [bool(gradients_at_init(model, ids, name, 2).any()) for name in experts] == reached


def test_the_gradients_are_those_of_the_matrix_through_the_factors() -> None:
    """dL/dB = dL/dW A^T and dL/dA = B^T dL/dW, at scale 1."""
    model, ids, layer = model_of(LLAMA), ids_for(LLAMA, 1), "blocks.1.mlp.up"
    F.cross_entropy(model(ids)[0, :-1], ids[0, 1:]).backward()
    gradient = model.get_submodule(layer).weight.grad
    copied = copy.deepcopy(model)
    lora.add(copied, LoraOptions(rank=2, alpha=2.0, targets=(layer,)))
    a = lora.wrapped(copied)[layer].adapters["default"].a
    assert gradients_at_init(model, ids, layer, 2)[0, 1] == pytest.approx((gradient @ a.T).norm().item(), rel=1e-4)


def test_what_a_cut_loses_is_its_tail_and_v_for_its_transpose_is_found() -> None:
    matrix = torch.randn(9, 9)
    terms = svd(matrix)
    assert not any(broken("cut_loses_the_tail", cut_loses_the_tail(matrix, terms, rank)) for rank in range(10))
    wrong = SVD(terms.u, terms.s, terms.v.T)
    assert broken("cut_loses_the_tail", cut_loses_the_tail(matrix, wrong, 4))


def test_nothing_is_written_into_the_model() -> None:
    model, ids = model_of(LLAMA), ids_for(LLAMA, 1)
    before = model(ids)
    found = Decomposed(unchanged(model), ids)
    logits(found.changed.plain, ids, {"blocks.0.attn.q": torch.zeros(24, 20)})
    assert torch.equal(model(ids), before)


def test_the_ranks_of_the_slider() -> None:
    assert ranks_up_to(4) == [0, 1, 2, 3, 4]
    assert ranks_up_to(20) == [0, 1, 2, 3, 4, 6, 8, 11, 16, 20]
