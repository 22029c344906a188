"""Only a model that computes what its config says is written or merged: an exchanged part is named and refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from fathom.adapters import lora
from fathom.adapters.merge import merged_copy, write_run
from fathom.adapters.options import LoraOptions
from fathom.anatomy.swap import swap
from fathom.backend.inference import prepare_for_inference
from fathom.backend.training import recompute_blocks, use_fused_passes
from fathom.errors import FathomError
from fathom.families.plain import require_plain
from fathom.formats.export import write_model
from fathom.model.attention import attend
from fathom.model.mlp import GeluMLP, Relu2MLP
from fathom.model.presets import GPT2
from fathom.model.transformer import Transformer
from fathom.quant.model import quantize_model

CONFIG = replace(GPT2, vocab_size=64, context_length=16, d_model=32, n_layer=2, n_head=2)


class MyGelu(GeluMLP):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Scaled(nn.Linear):
    pass


class Mine(Transformer):
    pass


def mine(*inputs: Any) -> Tensor:
    return attend(*inputs) / 2


def own_forward(model: Transformer) -> None:
    model.blocks[1].attn.forward = lambda x, *_: x  # type: ignore[method-assign]


def own_hidden(model: Transformer) -> None:
    model.hidden = lambda *_: None  # type: ignore[method-assign, assignment, return-value]


def another_mlp(model: Transformer) -> None:
    model.blocks[0].mlp = Relu2MLP(model.config.resolved())


def no_mlp(model: Transformer) -> None:
    model.blocks[1].mlp = None


def below_an_adapter(model: Transformer) -> None:
    lora.add(model, LoraOptions(rank=2, targets=("attn.q",)))
    swap(model, {nn.Linear: Scaled}, names=["blocks.0.attn.q.base"])


CHANGES: list[tuple[str, Callable[[Transformer], Any]]] = [
    ("blocks.0.mlp is a MyGelu", lambda model: swap(model, {GeluMLP: MyGelu})),
    ("blocks.0.attn calls mine", lambda model: swap(model, attend=mine)),
    ("the model is a Mine", lambda model: setattr(model, "__class__", Mine)),
    ("blocks.1.attn is an Attention with a forward of its own", own_forward),
    ("the model has a hidden of its own", own_hidden),
    ("blocks.0.mlp is a Relu2MLP", another_mlp),
    ("the model has no blocks.1.mlp", no_mlp),
    ("blocks.0.attn.q.base is a Scaled", below_an_adapter),
]


@pytest.mark.parametrize("reason, change", CHANGES, ids=[reason for reason, _ in CHANGES])
def test_a_part_that_computes_something_else_is_refused(
    reason: str, change: Callable[[Transformer], Any], tmp_path: Path
) -> None:
    model, out = Transformer(CONFIG).eval(), tmp_path / "out"
    change(model)
    for use in (
        lambda: write_model(model, None, "hf", out),
        lambda: write_model(model, None, "gguf", out),
        lambda: merged_copy(model),
        lambda: write_run(out, model, None),
    ):
        with pytest.raises(FathomError, match=f"^{reason}.*which no file format holds; undo the swap first$"):
            use()
    assert not out.exists()


@pytest.mark.parametrize("change", [use_fused_passes, recompute_blocks, prepare_for_inference])
def test_a_part_that_computes_the_same_is_accepted(change: Callable[[Transformer], Any], tmp_path: Path) -> None:
    model = Transformer(CONFIG).eval()
    changed = change(model)
    changed = changed if isinstance(changed, Transformer) else model
    assert write_model(changed, None, "hf", tmp_path / "out").equal
    merged_copy(changed)


def test_an_undone_swap_adapters_and_packed_layers_are_plain() -> None:
    model = Transformer(CONFIG)
    with swap(model, {GeluMLP: MyGelu}, attend=mine):
        pass
    quantize_model(model, "int8")
    lora.add(model, LoraOptions(rank=2, targets=("attn.*", "mlp.up")))
    require_plain(model)
