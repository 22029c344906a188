"""Which layers get an adapter, which are refused, and which of several ranks counts."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from fathom.adapters import lora
from fathom.adapters.options import LoraOptions
from fathom.adapters.targets import select
from fathom.errors import FathomError
from fathom.model.transformer import Transformer
from tests.adapters.models import small
from tests.architectures import GPT, LLAMA, ids_for


@pytest.mark.parametrize(
    "pattern, gpt, llama",
    [
        ("attn.q", ["blocks.0.attn.q"], ["blocks.0.attn.q"]),
        ("blocks.0.mlp.*", ["blocks.0.mlp.up", "blocks.0.mlp.down"],
         ["blocks.0.mlp.gate", "blocks.0.mlp.up", "blocks.0.mlp.down"]),
        ("c_attn", ["blocks.0.attn.q", "blocks.0.attn.k", "blocks.0.attn.v"], None),
        ("attn.c_proj", ["blocks.0.attn.out"], None),
        ("c_proj", ["blocks.0.attn.out", "blocks.0.mlp.down"], None),
        ("q_proj", None, ["blocks.0.attn.q"]),
        ("self_attn.*", None, ["blocks.0.attn.q", "blocks.0.attn.k", "blocks.0.attn.v", "blocks.0.attn.out"]),
        ("model.layers.0.mlp.down_proj", None, ["blocks.0.mlp.down"]),
        ("embed", ["embed"], ["embed"]),
        ("wte", ["embed"], None),
        ("lm_head", ["unembed"], ["unembed"]),
        ("nd", None, None),
        ("proj", None, None),
        ("*", ["blocks.0.attn.q", "blocks.0.attn.k", "blocks.0.attn.v", "blocks.0.attn.out", "blocks.0.mlp.up",
               "blocks.0.mlp.down", "embed", "unembed"], None),
    ],
)  # fmt: skip
def test_targets(pattern: str, gpt: list[str] | None, llama: list[str] | None) -> None:
    square = replace(GPT, n_layer=1, n_head=5, head_dim=4)
    for config, expected in ((square, gpt), (replace(LLAMA, n_layer=1), llama)):
        if expected is not None:
            assert set(select(Transformer(config), [pattern])) == set(expected)
        elif pattern != "*":
            with pytest.raises(FathomError, match="fits no layer"):
                select(Transformer(config), [pattern])


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"targets": ("q_prj",)}, "'q_prj' fits no layer of this model; did you mean q_proj"),
        ({"targets": ("attn.w",)}, "did you mean attn."),
        ({"targets": ("zzz",)}, "layers are such as"),
        ({"rank": 21}, "rank 21 is larger than blocks.0.attn.q, 24 x 20; give at most 20"),
        ({"ranks": (("down", 99),)}, "'down' fits no layer|rank 99 is larger than blocks.0.mlp.down"),
        ({"ranks": (("dwn", 4),)}, "'dwn' fits no layer"),
        ({"targets": ("embed",), "dora": True}, "embed is a table"),
        ({"rank": 0}, "rank is 0"),
        ({"alpha": -1.0}, "alpha is -1"),
        ({"dropout": 1.0}, "dropout is 1"),
        ({"targets": ()}, "without targets"),
        ({"dora": True, "init": "pissa"}, "choose one"),
    ],
)
def test_what_cannot_be_added(settings: dict[str, Any], says: str) -> None:
    model = small("llama")
    names = [name for name, _ in model.named_modules()]
    with pytest.raises(FathomError, match=says) as caught:
        lora.add(model, LoraOptions(**settings))
    assert "\n" not in str(caught.value)
    assert [name for name, _ in model.named_modules()] == names  # nothing was begun


class Doubled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def test_a_layer_of_a_class_of_its_own_is_refused() -> None:
    """Merged, it would silently compute as its parent."""
    model = small("llama")
    model.blocks[1].mlp.up.__class__ = Doubled
    names = [name for name, _ in model.named_modules()]
    with pytest.raises(FathomError, match=r"blocks\.1\.mlp\.up is a Doubled, which descends from Linear"):
        lora.add(model, LoraOptions(rank=2))
    assert [name for name, _ in model.named_modules()] == names


def test_hooks_stay_in_their_places() -> None:
    model, calls = small("llama"), list[str]()
    hook = model.blocks[0].attn.q.register_forward_hook(lambda part, *_: calls.append(type(part).__name__))
    lora.add(model, LoraOptions(rank=2))
    model(ids_for(LLAMA))
    lora.remove(model, "default")
    model(ids_for(LLAMA))
    hook.remove()
    model(ids_for(LLAMA))
    assert calls == ["LoraLinear", "Linear"]


def test_what_cannot_be_done_with_adapters() -> None:
    model = small("llama")
    lora.add(model, LoraOptions(rank=2, targets=("attn.q",)), "poems")
    with pytest.raises(FathomError, match="no adapter 'poem'; did you mean poems"):
        lora.remove(model, "poem")
    for name in ("poems", "a.b", "", "keys"):
        with pytest.raises(FathomError, match="cannot be called"):
            lora.add(model, LoraOptions(), name)
    lora.disable(model)
    with pytest.raises(FathomError, match="nothing to merge"):
        lora.merge(model)
    lora.enable(model, "poems")
    lora.merge(model)
    for action in (
        lora.merge,
        lora.disable,
        lora.enable,
        lambda m: lora.remove(m, "poems"),
        lambda m: lora.add(m, LoraOptions()),
    ):
        with pytest.raises(FathomError, match="unmerge first"):
            action(model)
    with pytest.raises(FathomError, match="; it has none"):
        lora.state_dict(small("llama"))


def test_of_several_ranks_the_last_that_fits_counts() -> None:
    model = small("llama")
    ranks, alphas = (("mlp.*", 2), ("blocks.1.mlp.up", 5)), (("attn.*", 3.0), ("attn.q", 9.0))
    lora.add(model, LoraOptions(rank=4, ranks=ranks, alphas=alphas, targets=("mlp.*", "attn.*")))
    adapters = {name: part.adapters["default"] for name, part in lora.wrapped(model).items()}
    actual = {name: (len(adapter.a), adapter.scale) for name, adapter in adapters.items()}
    assert actual["blocks.1.mlp.up"] == (5, 2.0) and actual["blocks.0.mlp.up"] == (2, 2.0)
    assert actual["blocks.1.attn.q"] == (4, 9 / 4) and actual["blocks.1.attn.k"] == (4, 3 / 4)
