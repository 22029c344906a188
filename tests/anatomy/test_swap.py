"""Parts of a kind are exchanged and come back; what is not known exactly is refused, and then nothing has changed."""

import copy
import gc
import weakref
from collections.abc import Callable
from dataclasses import replace as but
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fathom.anatomy.swap import kind_of, parts, swap
from fathom.errors import FathomError
from fathom.model.attention import Attention, attend, attend_fused
from fathom.model.cache import KVCache
from fathom.model.config import ModelConfig
from fathom.model.mlp import GeluMLP, SwigluMLP
from fathom.model.norm import LayerNorm, RMSNorm
from fathom.model.transformer import Block, Transformer

GPT = ModelConfig(vocab_size=31, context_length=16, d_model=32, n_layer=2, n_head=4, position="learned", norm="layer",
                  mlp="gelu", bias=True)  # fmt: skip
LLAMA = but(GPT, n_kv_head=2, position="rope", norm="rms", mlp="swiglu", bias=False)
IDS = torch.arange(8)[None]


class Twice(GeluMLP):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Loud(nn.Module):
    """A part of another kind around the old one."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        return 3 * self.base(x)


class MyLinear(nn.Linear):
    pass


class MyNorm(RMSNorm):
    pass


class MyAttention(Attention):
    pass


def model_of(config: ModelConfig) -> Transformer:
    torch.manual_seed(0)
    return Transformer(config).eval()


def test_a_subclass_takes_the_parts_over_and_gives_them_back() -> None:
    model = model_of(GPT)
    before, mlps, state = model(IDS), [block.mlp for block in model.blocks], model.state_dict()
    expected = copy.deepcopy(model)
    with torch.no_grad():
        for block in expected.blocks:
            for parameter in block.mlp.down.parameters():  # type: ignore[union-attr]
                parameter *= 2
    with swap(model, {GeluMLP: Twice}) as swapped:
        assert swapped.names == ["blocks.0.mlp", "blocks.1.mlp"] == parts(model, Twice)
        torch.testing.assert_close(model(IDS), expected(IDS))
        assert list(model.state_dict()) == list(state)
    assert [block.mlp for block in model.blocks] == mlps and parts(model, GeluMLP) == swapped.names
    assert torch.equal(model(IDS), before)


def test_a_function_makes_new_parts_and_the_old_objects_come_back() -> None:
    model = model_of(GPT)
    before, old, names = model(IDS), model.blocks[1].attn.q, list(model.state_dict())
    swapped = swap(model, {nn.Linear: Loud}, names=["blocks.1.attn.q"])
    assert isinstance(new := model.blocks[1].attn.q, Loud) and new.base is old
    assert not torch.equal(model(IDS), before) and "blocks.1.attn.q.base.weight" in model.state_dict()
    swapped.undo()
    swapped.undo()  # a second time does nothing
    assert model.blocks[1].attn.q is old and list(model.state_dict()) == names
    assert torch.equal(model(IDS), before)


def test_attention_calls_another_function() -> None:
    model, called = model_of(LLAMA), list[int]()

    def mine(*arguments: Any) -> Tensor:
        called.append(1)
        return attend(*arguments)

    with swap(model, attend=mine):
        torch.testing.assert_close(model(IDS, KVCache(LLAMA, 1, 8)), model(IDS))
    assert len(called) == 4 and all(block.attn.attend is attend_fused for block in model.blocks)
    with swap(model, attend=mine, names=["blocks.1.attn"]):
        assert [block.attn.attend for block in model.blocks] == [attend_fused, mine]


def test_what_lies_inside_others_is_exchanged_with_them() -> None:
    class Same(Block):
        pass

    model = model_of(GPT)
    before = model(IDS)
    with swap(model, {GeluMLP: Twice, Block: Same, LayerNorm: Loud}, attend=attend):
        assert {type(block) for block in model.blocks} == {Same} and isinstance(model.final_norm, Loud)
        assert len(parts(model, Twice)) == 2 and len(parts(model, Loud)) == len(parts(model, LayerNorm)) == 5
    assert torch.equal(model(IDS), before) and not parts(model, Same, Twice, Loud)
    with swap(model, {GeluMLP: Loud, nn.Linear: Loud}):  # the old MLPs, with new layers in them, lie inside new parts
        assert isinstance(model.get_submodule("blocks.1.mlp.base.up"), Loud)
    assert torch.equal(model(IDS), before) and not parts(model, Loud)


@pytest.mark.parametrize(
    "config, place, child, kinds, parent",
    [
        (GPT, "blocks.1.mlp", Twice, {GeluMLP: Loud}, "GeluMLP"),
        (LLAMA, "blocks.1.mlp_norm", MyNorm, {RMSNorm: Loud}, "RMSNorm"),
        (GPT, "blocks.0.attn", MyAttention, {}, "Attention"),
        (GPT, "blocks.0.attn.q", MyLinear, {nn.Linear: Loud}, "Linear"),
    ],
)
def test_what_descends_from_a_kind_is_refused(
    config: ModelConfig, place: str, child: type[nn.Module], kinds: dict[type[nn.Module], Any], parent: str
) -> None:
    model = model_of(config)
    model.get_submodule(place).__class__ = child
    before = [(type(part), getattr(part, "attend", None)) for part in model.modules()]
    for names in (None, [place]):
        with pytest.raises(FathomError, match=rf"{place} is a {child.__name__}, which descends from {parent}"):
            swap(model, kinds, attend=None if kinds else attend, names=names)
    assert before == [(type(part), getattr(part, "attend", None)) for part in model.modules()]
    swap(model, {child: Loud})  # named, it is no stranger


def test_squared_relu_is_no_gelu() -> None:
    with pytest.raises(FathomError, match=r"blocks.0.mlp is a Relu2MLP, which descends from GeluMLP"):
        swap(model_of(but(GPT, mlp="relu2")), {GeluMLP: Twice})


def test_a_forward_of_its_own_is_refused() -> None:
    model = model_of(GPT)
    model.blocks[1].mlp.forward = lambda x: x  # type: ignore[union-attr, method-assign, assignment]
    assert kind_of(model.blocks[1].mlp) is None and parts(model, GeluMLP) == ["blocks.0.mlp"]  # type: ignore[arg-type]
    with pytest.raises(FathomError, match=r"blocks.1.mlp is a GeluMLP with a forward of its own, which would be lost"):
        swap(model, {GeluMLP: Twice})
    assert parts(model, Twice) == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"kinds": {SwigluMLP: Loud}}, "found no SwigluMLP; the model's parts are Embedding, .*GeluMLP"),
        (
            {"kinds": {GeluMLP: Loud}, "names": ["blocks.1.mpl"]},
            "'blocks.1.mpl' is not part .* did you mean blocks.1.m",
        ),
        ({"kinds": {GeluMLP: Loud}, "names": ["blocks.1.attn"]}, "blocks.1.attn is an Attention; expected GeluMLP"),
        ({"kinds": {Transformer: Loud}}, "Transformer is the whole model"),
        ({"kinds": {Transformer: Loud}, "names": [""]}, "'' is not part of this model"),
    ],
)
def test_what_matches_nothing_is_an_error(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(FathomError, match=message):
        swap(model_of(GPT), **arguments)


def test_no_part_by_name_is_no_error() -> None:
    model = model_of(but(GPT, n_layer=0))
    assert swap(model, attend=attend, names=parts(model, Attention)).names == []


def test_a_failure_leaves_the_model_as_it_was_and_names_the_part() -> None:
    model, count = model_of(GPT), list[int]()
    before = list(model.modules())

    def third(old: nn.Module) -> nn.Module:
        count.append(1)
        if len(count) == 3:
            raise FathomError("found nan; expected numbers")
        return Loud(old)

    with pytest.raises(FathomError, match=r"^blocks\.0\.mlp_norm: found nan; expected numbers$"):
        swap(
            model,
            {LayerNorm: third},
            names=[f"blocks.{i}.{n}" for i in (0, 1) for n in ("attn_norm", "mlp_norm")][::-1],
        )
    assert list(map(id, model.modules())) == list(map(id, before))


@pytest.mark.parametrize("new", [Twice, lambda old: Loud(GeluMLP(GPT.resolved())), Loud])
def test_flags_hooks_and_device_stay_with_the_place(new: Callable[[Any], nn.Module]) -> None:
    model, seen = model_of(GPT).train(), list[int]()
    model.blocks[1].mlp.eval()  # type: ignore[union-attr]
    hook = model.blocks[1].mlp.register_forward_hook(lambda *_: seen.append(1))  # type: ignore[union-attr]
    swapped = swap(model, {GeluMLP: new})
    assert [block.mlp.training for block in model.blocks] == [True, False]  # type: ignore[union-attr]
    model(IDS)
    assert seen == [1]
    swapped.undo()
    model(IDS)
    assert seen == [1, 1]
    with swap(model, {GeluMLP: new}):
        hook.remove()
        model(IDS)
    model(IDS)
    assert seen == [1, 1]


def test_a_new_part_goes_where_the_old_one_is() -> None:
    with torch.device("meta"):
        model = model_of(GPT)
    swap(model, {GeluMLP: lambda old: GeluMLP(GPT.resolved())})  # weights that are read into a model without contents
    assert not any(p.is_meta for block in model.blocks for p in block.mlp.parameters())  # type: ignore[union-attr]
    model = model_of(GPT).to(torch.device("cpu"))
    made: list[nn.Module] = []

    def elsewhere(old: nn.Module) -> nn.Module:
        made.append(part := Loud(nn.Identity()))
        part.register_buffer("scale", torch.empty(3, device="meta"))
        part.to = lambda device: setattr(part, "moved", device) or part  # type: ignore[func-returns-value, method-assign]
        return part

    swap(model, {GeluMLP: elsewhere})
    assert [part.moved for part in made] == [torch.device("cpu")] * 2


def test_a_part_with_two_names_stays_one_part() -> None:
    for new in (Twice, Loud):
        model = model_of(GPT)
        model.blocks[1].mlp = shared = model.blocks[0].mlp
        with swap(model, {GeluMLP: new}) as swapped:
            assert model.blocks[0].mlp is model.blocks[1].mlp and isinstance(model.blocks[1].mlp, new)
            assert swapped.names == ["blocks.0.mlp", "blocks.1.mlp"]
        assert model.blocks[0].mlp is shared is model.blocks[1].mlp and type(shared) is GeluMLP


def test_swaps_are_undone_in_the_reverse_order() -> None:
    class Thrice(Twice):
        pass

    model = model_of(GPT)
    first = swap(model, {GeluMLP: Twice})
    second = swap(model, {Twice: Thrice})
    with pytest.raises(FathomError, match=r"blocks.1.mlp has been exchanged again since; undo that first"):
        first.undo()
    second.undo()
    first.undo()
    wrapped, again = swap(model, {GeluMLP: Loud}), swap(model, {Loud: nn.Identity})
    with pytest.raises(FathomError, match=r"has been exchanged again"):
        wrapped.undo()
    again.undo()
    wrapped.undo()
    mine = swap(model, attend=attend)
    model.blocks[0].attn.attend = attend_fused
    with pytest.raises(FathomError, match=r"blocks.0.attn has been exchanged again"):
        mine.undo()
    assert len(parts(model, GeluMLP)) == 2


def test_without_its_handle_the_old_part_is_freed_at_once() -> None:
    """Packing a large model holds one float matrix at a time."""
    model = model_of(GPT)
    old = weakref.ref(model.blocks[0].attn.q)
    gc.disable()
    try:
        swap(model, {nn.Linear: lambda part: nn.Linear(32, 32)}, names=["blocks.0.attn.q"])
        assert old() is None
    finally:
        gc.enable()


class Doubled(GeluMLP):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Tripled(Doubled):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)


def test_an_undo_that_is_refused_changes_nothing() -> None:
    model = Transformer(GPT)
    first = swap(model, {GeluMLP: Doubled})
    second = swap(model, {Doubled: Tripled}, names="blocks.0.mlp")
    with pytest.raises(FathomError, match=r"blocks\.0\.mlp has been exchanged again"):
        first.undo()
    assert [type(block.mlp) for block in model.blocks] == [Tripled, Doubled]
    second.undo()
    first.undo()
    assert {type(block.mlp) for block in model.blocks} == {GeluMLP}


def test_the_error_of_a_block_is_the_one_that_is_seen() -> None:
    model = Transformer(GPT)
    with pytest.raises(ValueError, match="mine") as caught, swap(model, {GeluMLP: Doubled}):
        swap(model, {Doubled: Tripled})
        raise ValueError("mine")
    assert "exchanged again" in caught.value.__notes__[0]


class OwnConstructor(GeluMLP):
    def __init__(self, config: Any) -> None:
        super().__init__(config)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing to swap"),
        ({"attend": nn.Identity()}, "attend is an Identity; expected a function"),
        ({"kinds": {GeluMLP: None}}, "expected {class of a part"),
        ({"kinds": {GeluMLP: OwnConstructor}}, "blocks.0.mlp: OwnConstructor has a constructor of its own"),
        ({"kinds": {GeluMLP: lambda old: old.forward}}, "blocks.0.mlp: the function returned method"),
        ({"kinds": {Transformer: Transformer}}, "Transformer is the whole model"),
    ],
)
def test_a_wrong_call_is_one_line(arguments: dict[str, Any], message: str) -> None:
    model = Transformer(GPT)
    with pytest.raises(FathomError, match=message):
        swap(model, **arguments)
    assert {type(block.mlp) for block in model.blocks} == {GeluMLP} and "attend" not in dict(model.named_modules())
