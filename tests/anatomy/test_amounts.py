"""Memory and products: each formula is equal to its amount, and amounts to what is measured."""

from dataclasses import replace

import pytest
import torch

from fathom.adapters import lora
from fathom.adapters.options import LoraOptions
from fathom.anatomy import amounts, cost, training
from fathom.anatomy.amounts import KINDS, USES, Work, memory
from fathom.anatomy.training import Step
from fathom.model.config import ModelConfig
from fathom.model.presets import GPT2, LLAMA2_7B
from fathom.model.transformer import Transformer
from fathom.quant.linear import QuantLinear
from fathom.quant.model import quantize_model
from tests.architectures import ARCHITECTURES, GPT, LLAMA

every_architecture = pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())


def worked_out(formula: str) -> int:
    """The arithmetic as Python reads it."""
    return int(eval(formula.replace(",", "").replace("×", "*")))


@every_architecture
def test_formulas_are_equal_to_their_amounts(config: ModelConfig) -> None:
    work = Work(19, 3, 2, 5, "int4")
    found = memory(config, work)
    assert list(found) == [*USES] and all(list(kinds) == [*KINDS] for kinds in found.values())
    for amount in (*(one for kinds in found.values() for one in kinds.values()), *amounts.flops(config, work).values()):
        assert worked_out(amount.formula) == amount.n


@every_architecture
def test_they_agree_with_the_arithmetic_of_cost(config: ModelConfig) -> None:
    found, work = memory(config, Work(11, 2)), Work(11, 2)
    step = training.memory(config, Step(11, 2, itemsize=4))
    for kind in ("weights", "gradients", "optimizer", "activations", "logits"):
        assert found["full"][kind].n == step[kind].n, kind
    assert found["inference"]["cache"].n == cost.cache_bytes(config, 2, 11)
    assert {name: one.n for name, one in amounts.flops(config, work).items()} == cost.flops(config, 11, 2)


@pytest.mark.parametrize("name", ["gpt", "llama", "multi-query", "llama with bias", "parallel"])
def test_an_adapter_has_so_many_parameters(name: str) -> None:
    config = ARCHITECTURES[name]
    model = Transformer(config)
    lora.add(model, LoraOptions(rank=3))
    assert amounts.n_adapted(config, 3) == sum(x.numel() for x in lora.parameters(model))


@pytest.mark.parametrize("scheme", ["int8", "int4", "nf4", "nf4-single"])
def test_packed_weights_take_so_many_bytes(scheme: str) -> None:
    for config in (GPT, LLAMA):
        model = Transformer(config)
        quantize_model(model, scheme)
        packed = sum(part.nbytes for part in model.modules() if isinstance(part, QuantLinear))
        held = packed + sum(x.nbytes for x in model.parameters())
        assert amounts.packed_weights(config, scheme, 4).n == held


@pytest.mark.parametrize("config", [GPT, LLAMA], ids=["gpt", "llama"])
def test_activations_of_an_adapter_are_about_what_autograd_keeps(config: ModelConfig) -> None:
    config = replace(config, d_model=48, d_ff=None, context_length=64)
    model, ids, kept = Transformer(config), torch.randint(config.vocab_size, (4, 64)), {}
    lora.add(model, LoraOptions(rank=8))
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        kept[storage.data_ptr()] = (storage.nbytes(), x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        model.hidden(ids).sum()
    measured = sum(size for address, (size, _) in kept.items() if address not in known)
    assert memory(config, Work(64, 4, rank=8))["lora"]["activations"].n == pytest.approx(measured, rel=0.15)


def test_qlora_of_a_7b_fits_where_the_model_hardly_does() -> None:
    """Dettmers et al. 2023: 4.127 bits for a weight of the matrices."""
    found = memory(LLAMA2_7B, Work(512, itemsize=2, rank=64))
    total = {use: sum(one.n for one in kinds.values()) for use, kinds in found.items()}
    assert found["lora"]["weights"].n == 2 * 6_738_415_616
    assert found["qlora"]["weights"].n == pytest.approx(6_476_005_376 * 4.127 / 8 + 2 * 262_410_240, rel=1e-3)
    assert total["qlora"] < total["lora"] / 1.5 < total["full"] / 4
    assert memory(GPT2, Work(1024))["full"]["optimizer"].n == 8 * 124_439_808
