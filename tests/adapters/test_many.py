"""Several adapters in one model are what each is alone, or their sum."""

import pytest
import torch
from torch import Tensor

from fathom.adapters import lora
from fathom.adapters.lora import blend, per_row, switch
from fathom.adapters.merge import merged_copy
from fathom.adapters.options import LoraOptions
from fathom.errors import FathomError
from fathom.model.transformer import Transformer
from tests.adapters.test_lora import nudged, small
from tests.architectures import LLAMA, ids_for

KINDS = {"one": LoraOptions(rank=3), "two": LoraOptions(rank=2, targets=("attn.*",), dora=True),
         "three": LoraOptions(rank=4, targets=("mlp.up", "embed"))}  # fmt: skip


def with_three(packed: str | None = None) -> Transformer:
    model = small("llama", packed)
    for name, options in KINDS.items():
        lora.add(model, options, name)
        nudged(model, name)
    return model


def alone(model: Transformer, name: str | None, ids: Tensor) -> Tensor:
    switch(model, name)
    return model(ids)


@torch.no_grad()
def test_one_at_a_time() -> None:
    model, ids = with_three(), ids_for(LLAMA)
    logits = {name: alone(model, name, ids) for name in [None, *KINDS]}
    for name, options in KINDS.items():
        torch.manual_seed(0)
        single = small("llama")
        single.load_state_dict(merged_copy(switched(model, None)).state_dict())
        lora.add(single, options, name)
        for own, other in zip(lora.parameters(single, name), lora.parameters(model, name)):
            own.copy_(other)
        assert torch.equal(single(ids), logits[name])
    pairs = [(a, b) for a in logits for b in logits if a is not b]
    assert all((logits[a] - logits[b]).abs().max() > 1e-3 for a, b in pairs)


def switched(model: Transformer, name: str | None) -> Transformer:
    switch(model, name)
    return model


@pytest.mark.parametrize("packed", [None, "int8"])
@torch.no_grad()
def test_a_blend_is_the_sum_of_the_changes(packed: str | None) -> None:
    model, ids = with_three(packed), ids_for(LLAMA)
    blend(model, {"one": 0.5, "two": -1.5, "three": 2.0})
    for part in lora.wrapped(model).values():
        deltas = [part.delta(name) * {"one": 0.5, "two": -1.5, "three": 2.0}[name] for name in part.adapters]
        assert torch.allclose(part.weight, part.base.weight + sum(deltas), atol=1e-5)  # type: ignore[operator]
    blended = model(ids)
    assert (merged_copy(model)(ids) - blended).abs().max() < 1e-5
    lora.merge(model)
    assert (model(ids) - blended).abs().max() < 1e-5
    lora.unmerge(model)
    assert torch.equal(model(ids), blended)
    blend(model, {})
    assert torch.equal(model(ids), alone(model, None, ids))


@torch.no_grad()
def test_scaled() -> None:
    model, ids = with_three(), ids_for(LLAMA)
    switch(model, "one")
    lora.scale(model, "one", 0.25)
    quarter = model(ids)
    lora.enable(model, "one")
    for part in lora.wrapped(model, "one").values():
        part.adapters["one"].b.mul_(0.25)  # type: ignore[union-attr, operator]
    assert (model(ids) - quarter).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_each_row_its_own(dtype: torch.dtype) -> None:
    model = with_three().to(dtype)
    chosen = ["two", None, "one", "three", "one"]
    ids = ids_for(LLAMA, batch=5)
    switch(model, "two")
    before = model(ids)
    with per_row(model, chosen):
        together = model(ids)
        with pytest.raises(FathomError, match="3 rows, and adapters for 5"):
            model(ids[:3])
        with pytest.raises(FathomError, match="adapters for 5"):
            model.unembed(model.hidden(ids)[:, -1])  # (b, d): no longer a row of tokens for each
    assert torch.equal(model(ids), before)
    for row, name in enumerate(chosen):
        single = alone(model, name, ids[row : row + 1])
        assert (together[row] - single[0]).float().abs().max() < (1e-5 if dtype == torch.float32 else 0.05)
    with pytest.raises(FathomError, match="no adapter 'four'"), per_row(model, ["four"]):
        pass


@torch.no_grad()
def test_merging_one_leaves_the_others() -> None:
    model, ids = small("llama"), ids_for(LLAMA)
    for name in ("one", "two"):
        lora.add(model, LoraOptions(rank=3), name)
        nudged(model, name)
    both = model(ids)
    lora.merge(model, "one")
    assert (model(ids) - both).abs().max() < 1e-5
    lora.unmerge(model)
    assert torch.equal(model(ids), both)
    lora.remove(model, "one")
    assert lora.names(model) == ["two"] and torch.equal(model(ids), alone(model, "two", ids))


@torch.no_grad()
def test_merging_one_of_several_with_dora() -> None:
    """A DoRA's change is that of W: worked out of what W + another change is, it would be another."""
    model, ids = with_three(), ids_for(LLAMA)
    both = model(ids)
    with pytest.raises(FathomError, match="merge all"):
        lora.merge(model, "one")
    assert torch.equal(model(ids), both)
    lora.merge(model)
    assert (model(ids) - both).abs().max() < 1e-5


def test_learning_one_of_several() -> None:
    model = with_three()
    lora.freeze(model, "one")
    model(ids_for(LLAMA)).square().mean().backward()
    listed = set(map(id, lora.parameters(model, "one")))
    assert {id(p) for p in model.parameters() if p.grad is not None} == listed
