"""An adapter changes nothing at first, then what it should, however it is applied; and can be undone."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fathom.adapters import lora
from fathom.adapters.layer import LoraLinear
from fathom.adapters.merge import merged_copy
from fathom.adapters.options import LoraOptions
from fathom.errors import FathomError
from fathom.model.transformer import Transformer
from fathom.quant.linear import QuantLinear
from fathom.quant.model import quantize_model
from tests.adapters.models import small
from tests.architectures import GPT, LLAMA, ids_for, model_of

KINDS: dict[str, dict[str, Any]] = {
    "lora": {}, "rslora": {"rslora": True}, "dora": {"dora": True}, "pissa": {"init": "pissa"},
    "ranks": {"ranks": (("mlp.*", 2), ("blocks.1.mlp.up", 5)), "alphas": (("attn.q", 3.0),)},
}  # fmt: skip
ON_BASES = [(kind, packed) for kind in KINDS for packed in (None, "int8", "nf4") if kind != "pissa" or packed is None]


def nudged(model: Transformer, name: str = "default") -> Transformer:
    """As if the adapter had been trained."""
    with torch.no_grad():
        for parameter in lora.parameters(model, name):
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.mark.parametrize(("kind", "packed"), ON_BASES)
@pytest.mark.parametrize("name", ["gpt", "llama", "qk_norm"])
@torch.no_grad()
def test_at_first_nothing_changes_and_everything_can_be_undone(name: str, kind: str, packed: str | None) -> None:
    model = small(name, packed)
    ids, tensors = ids_for(model.config), copy.deepcopy(model.state_dict())
    plain = model(ids)
    wrapped = lora.add(model, LoraOptions(rank=3, **KINDS[kind]))
    assert len(wrapped) == 3 * (7 if name == "llama" else 6)
    first = model(ids)
    assert torch.equal(first, plain) if kind != "pissa" else (first - plain).abs().max() < 1e-5
    changed = nudged(model)(ids)
    assert (changed - plain).abs().max() > 1e-3
    lora.merge(model)
    assert (model(ids) - changed).abs().max() < 1e-5
    assert all(type(part.merged) is nn.Linear for part in lora.wrapped(model).values())
    lora.unmerge(model)
    assert torch.equal(model(ids), changed)
    lora.disable(model)
    assert torch.equal(model(ids), plain)
    lora.enable(model)
    assert torch.equal(model(ids), changed)
    lora.remove(model, "default")
    after = model.state_dict()
    assert list(after) == list(tensors) and all(torch.equal(after[key], x) for key, x in tensors.items())


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_layer_says_what_its_matrix_says(kind: str) -> None:
    """The equation itself, with the matrix W + delta written out."""
    model = small("gpt")
    lora.add(model, LoraOptions(rank=3, **KINDS[kind]))
    nudged(model)
    for part in lora.wrapped(model).values():
        assert isinstance(part, LoraLinear)
        x = torch.randn(2, 5, part.in_features)
        assert (part(x) - F.linear(x, part.weight, part.bias)).abs().max() < 1e-5
        assert torch.allclose(part.weight, part.base.weight + part.delta("default"))  # type: ignore[operator]


def test_scale_is_alpha_over_rank() -> None:
    for options, expected in (
        (LoraOptions(rank=4), 2.0),
        (LoraOptions(rank=4, alpha=3), 0.75),
        (LoraOptions(rank=4, alpha=3, rslora=True), 1.5),
    ):
        model = small("llama")
        lora.add(model, options)
        part = lora.wrapped(model)["blocks.0.attn.q"]
        assert options.scale == part.adapters["default"].scale == expected
        with torch.no_grad():
            a, b = part.adapters["default"].a, part.adapters["default"].b.normal_()  # type: ignore[union-attr, operator]
        assert torch.allclose(part.delta("default"), expected * b @ a)  # type: ignore[operator]


def test_dora_is_its_equation() -> None:
    model = small("llama")
    lora.add(model, LoraOptions(rank=3, dora=True))
    nudged(model)
    for part in lora.wrapped(model).values():
        adapter: Any = part.adapters["default"]
        whole = part.base.weight + 2.0 * adapter.b @ adapter.a
        expected = adapter.magnitude[:, None] * whole / whole.norm(dim=1, keepdim=True)
        assert torch.allclose(part.weight, expected, atol=1e-6)
        assert torch.allclose(adapter.row_norms(part.base), whole.norm(dim=1), atol=1e-5)


def test_pissa_takes_the_largest_directions() -> None:
    model = small("llama")
    lora.add(model, LoraOptions(rank=4, alpha=3, init="pissa"))
    part = lora.wrapped(model)["blocks.0.mlp.up"]
    adapter, w = part.adapters["default"], part.base.weight
    s = torch.linalg.svdvals(w)
    residual = w - adapter.scale * adapter.b @ adapter.a  # type: ignore[operator]
    assert torch.allclose(torch.linalg.svdvals(residual)[:-4], s[4:], atol=1e-5)


@pytest.mark.parametrize(("kind", "packed"), ON_BASES)
def test_only_the_adapter_learns(kind: str, packed: str | None) -> None:
    """Exactly the listed parameters have gradients, and the base is the same to the bit after steps."""
    model = small("llama", packed).train()
    ids = ids_for(LLAMA)
    before = copy.deepcopy(model.state_dict())
    lora.add(model, LoraOptions(rank=3, dropout=0.1, **KINDS[kind]))
    listed = list(lora.parameters(model))
    optimizer = torch.optim.AdamW(listed, lr=0.01)
    for _ in range(3):
        logits = model(ids)
        F.cross_entropy(logits.flatten(0, 1), ids.roll(-1, 1).flatten()).backward()
        assert {id(p) for p in model.parameters() if p.grad is not None} == set(map(id, listed))
        optimizer.step()
        optimizer.zero_grad()
    assert all(parameter.requires_grad == (id(parameter) in map(id, listed)) for parameter in model.parameters())
    trained = model.eval()(ids)
    lora.disable(model)
    assert (trained - model(ids)).abs().max() > 1e-3
    lora.remove(model, "default")
    after = model.state_dict()
    assert all(torch.equal(after[key], x) for key, x in before.items())


def test_pissa_begins_with_floats() -> None:
    """Packing what it leaves of W is its point; on weights that are packed already it would be an empty name."""
    model = small("llama", "nf4")
    before = list(model.state_dict())
    with pytest.raises(FathomError, match="before they are packed, and these are packed in nf4; leave init out"):
        lora.add(model, LoraOptions(rank=2, init="pissa"))
    assert list(model.state_dict()) == before


@pytest.mark.parametrize("kind", ["lora", "dora", "pissa"])
def test_gradients_are_those_of_the_written_out_matrix(kind: str) -> None:
    model = small("gpt").double()
    lora.add(model, LoraOptions(rank=2, targets=("attn.q",), **KINDS[kind]))
    part = nudged(model.double()).blocks[0].attn.q
    adapter: Any = part.adapters["default"]
    x, g = torch.randn(3, 5, 20, dtype=torch.double), torch.randn(3, 5, 24, dtype=torch.double)
    (part(x) * g).sum().backward()
    a, b = adapter.matrices()
    whole = part.base.weight + adapter.scale * b @ a
    if kind == "dora":
        whole = adapter.magnitude[:, None] * whole / whole.norm(dim=1, keepdim=True).detach()
    expected = torch.autograd.grad((F.linear(x, whole, part.base.bias) * g).sum(), list(adapter.parameters()))
    for parameter, gradient in zip(adapter.parameters(), expected):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["lora", "dora", "pissa"])
def test_a_base_of_16_bits_with_adapters_of_32(kind: str, dtype: torch.dtype) -> None:
    model = small("llama").to(dtype)
    lora.add(model, LoraOptions(rank=3, **KINDS[kind]))
    assert all(parameter.dtype == torch.float32 for parameter in lora.parameters(model))
    logits = nudged(model)(ids_for(LLAMA))
    assert logits.dtype == dtype
    exact = nudged_as(model)(ids_for_same := torch.arange(11)[None])
    assert (model(ids_for_same).float() - exact).abs().max() < 0.1
    logits.float().square().mean().backward()
    assert all(parameter.grad is not None for parameter in lora.parameters(model))


def nudged_as(model: Transformer) -> Transformer:
    """The same in fp32, with the matrices written out."""
    return merged_copy(model, torch.float32)


def test_autocast() -> None:
    model = small("llama")
    lora.add(model, LoraOptions(rank=3))
    ids = ids_for(LLAMA)
    exact = nudged(model)(ids)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids)
    assert (logits.float() - exact).abs().max() < 0.1


@pytest.mark.parametrize("kind", ["lora", "dora", "pissa"])
def test_compiles_whole(kind: str) -> None:
    model = small("llama")
    lora.add(model, LoraOptions(rank=3, **KINDS[kind]))
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    ids = ids_for(LLAMA)
    compiled = torch.compile(nudged(model), backend=backend, fullgraph=True)
    assert torch.equal(compiled(ids), model(ids)) and len(graphs) == 1


def test_merged_into_packed_layers_of_a_model_in_16_bits() -> None:
    model = model_of(LLAMA, std=0.2).bfloat16()
    quantize_model(model, "nf4")
    lora.add(model, LoraOptions(rank=2))
    ids = ids_for(model.config)
    unmerged = model(ids)
    lora.merge(model)
    assert torch.allclose(model(ids), unmerged, atol=0.1)


def test_two_adapters_of_the_embedding() -> None:
    model = model_of(LLAMA)
    for name in ("one", "two"):
        assert lora.add(model, LoraOptions(targets=("embed",), rank=2), name) == ["embed"]
    assert lora.names(model) == ["one", "two"]


def test_embedding_and_its_tie() -> None:
    """The adapter of a tied embedding changes what is read and not what is unembedded; merged, the two are untied."""
    model, ids = small("gpt"), ids_for(GPT)
    plain = model(ids)
    with pytest.warns(UserWarning, match="are one matrix"):
        assert lora.add(model, LoraOptions(rank=3, targets=("embed",))) == ["embed"]
    assert torch.equal(model(ids), plain)
    nudged(model)
    table: Any = model.embed
    expected = table.base.weight + table.delta("default")
    assert torch.allclose(model.embed(ids), expected[ids], atol=1e-6)
    assert torch.equal(model.unembed.weight, table.base.weight)
    changed = model(ids)
    lora.merge(model)
    assert (model(ids) - changed).abs().max() < 1e-5
    merged = merged_copy(model)
    assert not merged.config.tie_embeddings and (merged(ids) - changed).abs().max() < 1e-5
    lora.unmerge(model)
    assert torch.equal(model(ids), changed)
    lora.remove(model, "default")
    assert torch.equal(model(ids), plain) and model.embed.weight is model.unembed.weight


def test_unembed_that_is_tied() -> None:
    model, ids = small("gpt"), ids_for(GPT)
    with pytest.warns(UserWarning, match="are one matrix"):
        lora.add(model, LoraOptions(rank=3, targets=("unembed",)))
    changed = nudged(model)(ids)
    merged = merged_copy(model)
    assert torch.equal(merged.embed.weight, model.embed.weight)
    assert not merged.config.tie_embeddings and (merged(ids) - changed).abs().max() < 1e-5
    assert "unembed.weight" in merged.state_dict() and not torch.equal(merged.unembed.weight, merged.embed.weight)


@pytest.mark.parametrize("name", ["gpt", "llama", "no stream"])
@pytest.mark.parametrize("packed", [None, "nf4"])
def test_merged_copy_is_a_plain_model(name: str, packed: str | None) -> None:
    model = small(name, packed)
    lora.add(model, LoraOptions(rank=3, targets=("attn.*",)))
    ids = ids_for(model.config)
    changed = nudged(model)(ids)
    plain = merged_copy(model)
    assert (plain(ids) - changed).abs().max() < 1e-5
    assert not [part for part in plain.modules() if isinstance(part, LoraLinear | QuantLinear)]
    assert list(plain.state_dict()) == list(Transformer(model.config).state_dict())
    assert torch.equal(model(ids), changed)


def test_the_same_seed_the_same_adapter() -> None:
    states = []
    for seed in (0, 0, 1):
        model = small("llama")
        lora.add(model, LoraOptions(rank=3), seed=seed)
        torch.rand(3)
        states.append({key: x.clone() for key, x in lora.state_dict(model).items()})
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["blocks.0.attn.q.a"], states[2]["blocks.0.attn.q.a"])
    assert not torch.equal(states[0]["blocks.0.attn.q.a"], states[0]["blocks.0.attn.k.a"])
