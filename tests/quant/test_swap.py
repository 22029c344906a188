"""Packed layers take the place of linear ones in a whole model, from outside, and nothing else changes."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fathom.anatomy.swap import swap
from fathom.errors import FathomError
from fathom.model.config import ModelConfig
from fathom.model.mlp import GeluMLP
from fathom.model.transformer import Transformer
from fathom.quant.linear import QuantLinear
from fathom.quant.model import linears, pack_layer, quantize_model
from fathom.quant.schemes import SCHEMES

LLAMA = ModelConfig(vocab_size=31, context_length=16, d_model=64, n_layer=2, n_head=4, n_kv_head=2, d_ff=172,
                    position="rope", norm="rms", mlp="swiglu")  # fmt: skip
GPT2 = replace(LLAMA, position="learned", norm="layer", mlp="gelu", bias=True, tie_embeddings=True, n_kv_head=4)
IDS = torch.arange(8)[None]


@pytest.mark.parametrize("config, names", [(LLAMA, "q k v out gate up down"), (GPT2, "q k v out up down")])
def test_the_linear_layers_are_those_of_the_blocks(config: ModelConfig, names: str) -> None:
    attn, expected = {"q", "k", "v", "out"}, []
    for layer in range(2):
        expected += [f"blocks.{layer}.{'attn' if name in attn else 'mlp'}.{name}" for name in names.split()]
    assert linears(Transformer(config)) == expected


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["LLaMA 2", "GPT-2"])
def test_a_packed_model_is_the_float_model_of_its_unpacked_weights(name: str, config: ModelConfig) -> None:
    model = Transformer(config).eval()
    quantize_model(model, name)
    plain, state = Transformer(config).eval(), {}
    for key in plain.state_dict():
        path, _, kind = key.rpartition(".")
        state[key] = getattr(model.get_submodule(path), kind)
    plain.load_state_dict(state)
    assert not linears(model) and sum(isinstance(part, QuantLinear) for part in model.modules()) == len(linears(plain))
    torch.testing.assert_close(model(IDS), plain(IDS))
    assert type(model.unembed) is nn.Linear and (model.unembed.weight is model.embed.weight) == config.tie_embeddings
    assert not any(isinstance(part, QuantLinear) and part.training for part in model.modules())


def test_a_model_on_meta_fills_up_one_layer_at_a_time() -> None:
    source = Transformer(GPT2)
    with torch.device("meta"):
        model = Transformer(GPT2)
    for name in linears(model):
        layer = source.get_submodule(name)
        pack_layer(model, name, layer.weight, layer.bias, SCHEMES["nf4"])
    rest = {key: x for key, x in source.state_dict().items() if key in model.state_dict()}
    model.load_state_dict(rest, strict=False, assign=True)
    quantize_model(source, "nf4")
    assert not any(x.is_meta for x in model.state_dict().values())
    assert torch.equal(model(IDS), source(IDS))


@pytest.mark.parametrize("name", SCHEMES)
def test_gradients_reach_what_lies_before_a_packed_model(name: str) -> None:
    model = Transformer(LLAMA)
    quantize_model(model, name)
    model(IDS).logsumexp(-1).sum().backward()
    assert model.embed.weight.grad is not None and model.embed.weight.grad[:8].any(1).all()


def test_a_packed_model_compiles_in_one_graph() -> None:
    model = Transformer(replace(LLAMA, n_layer=1))
    quantize_model(model, "nf4")
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(IDS), model(IDS))


def test_nothing_to_quantise_is_an_error() -> None:
    bigram, model = Transformer(replace(LLAMA, n_layer=0)), Transformer(LLAMA)
    quantize_model(model, "int8")
    for empty, message in (
        (bigram, "found none; expected linear layers under 'blocks.'"),
        (model, "14 that are quantised"),
    ):
        with pytest.raises(FathomError, match=message):
            quantize_model(empty, "int8")


@pytest.mark.parametrize("name, near", [("blocks.0.attn.queue", "blocks.0.attn.q"), ("unembed", ""), ("blocks.0", "")])
def test_a_layer_that_is_not_there_is_named(name: str, near: str) -> None:
    with pytest.raises(FathomError, match=f"'{name}' is no linear layer of the blocks.*{near}"):
        pack_layer(Transformer(LLAMA), name, torch.randn(64, 64), None, SCHEMES["int8"])


@pytest.mark.parametrize(
    "shape, bias, actual", [((64, 32), False, "64 x 32 without a bias"), ((64, 64), True, "64 x 64 and a bias")]
)
def test_weights_of_another_model_are_refused(shape: tuple[int, int], bias: bool, actual: str) -> None:
    with pytest.raises(FathomError, match=f"blocks.1.attn.q: found {actual}; expected 64 x 64 without a bias"):
        pack_layer(Transformer(LLAMA), "blocks.1.attn.q", torch.randn(shape), torch.zeros(64) if bias else None,
                SCHEMES["int8"])  # fmt: skip


def test_weights_that_are_no_numbers_are_named() -> None:
    model = Transformer(LLAMA)
    with torch.no_grad():
        model.get_submodule("blocks.1.mlp.down").weight[3, 5] = float("nan")
    with pytest.raises(FathomError, match=r"^blocks.1.mlp.down: found nan at row 3, column 5; .*$"):
        quantize_model(model, "nf4")


def test_an_unknown_format_changes_nothing() -> None:
    model = Transformer(LLAMA)
    with pytest.raises(FathomError, match="quantize is 'int3'"):
        quantize_model(model, "int3")
    assert len(linears(model)) == 14


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Doubled(GeluMLP):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_a_linear_layer_of_its_own_class_is_refused_before_anything_is_packed() -> None:
    model = Transformer(LLAMA)
    model.get_submodule("blocks.1.mlp.down").__class__ = Scaled
    with pytest.raises(FathomError, match=r"blocks\.1\.mlp\.down is a Scaled, which descends from Linear"):
        quantize_model(model, "nf4")
    assert len(linears(model)) == 14
    with pytest.raises(FathomError, match=r"blocks\.1\.mlp\.down is a Scaled"):
        pack_layer(model, "blocks.1.mlp.down", torch.zeros(64, 172), None, SCHEMES["nf4"])


def test_an_mlp_of_its_own_class_keeps_its_forward_over_packed_layers() -> None:
    model = Transformer(GPT2).eval()
    swap(model, {GeluMLP: Doubled})
    expected = deepcopy(model)
    quantize_model(model, "int8")
    assert {type(block.mlp) for block in model.blocks} == {Doubled} and not linears(model)
    with torch.no_grad():
        for name in linears(expected):
            expected.get_submodule(name).weight.copy_(model.get_submodule(name).weight)
    torch.testing.assert_close(model(IDS), expected(IDS))
