"""A model made ready for inference on a CPU: its linear layers in panels, and all blocks in one native call.

The model that is given is taken apart leaf by leaf, so that no weight is in memory twice. Without native code, or for
what it does not cover, everything runs as before. Does not know files or text.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from fathom.backend.linear import FLOATS, PanelLinear
from fathom.backend.step import Step, makes_steps
from fathom.errors import FathomError
from fathom.model.attention import attend_fused
from fathom.model.cache import KVCache, NoCache
from fathom.model.transformer import Transformer
from fathom.native.build import library
from fathom.native.kernels import attention
from fathom.native.panels import Arena, from_float, from_groups, panel_bytes
from fathom.quant.linear import QuantLinear
from fathom.quant.scheme import Packed
from fathom.quant.schemes import scheme_named

# Attention of a quickened model for many tokens: natively where nothing is padded, else in the model's own way.


def attend_natively(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, dropout: float) -> Tensor:
    """`attend` of the model, for inference: shapes as there."""
    z = attention(q, k, v) if visible is None and dropout == 0 else None
    return attend_fused(q, k, v, visible, dropout) if z is None else z


PACKED = ("int8", "int4")  # number formats that lie in panels as they are
ROWS = 4096  # of a matrix that are packed at a time


def quicken(model: Transformer) -> Transformer:
    """The same model, for inference alone; the one that was given is used up. On other devices it comes back as it is.

    Logits are those of the plain model up to rounding: fp32 and bf16 weights within what their format rounds to
    anyway; int8 and int4 weights meet x in 8 bits. Where the blocks are int8 or int4, `unembed` becomes int8.
    """
    if model.embed.weight.device.type != "cpu" or model.embed.weight.dtype not in FLOATS:
        return model
    if library("panels") is None or library("step") is None:
        return model
    kinds = {name: kind for name, part in model.named_modules() if (kind := kind_of(part))}
    if "unembed" in kinds and any(kind in PACKED for kind in kinds.values()):  # one with adapters stays as it is
        kinds["unembed"] = "int8"
    arena = Arena(sum(panel_bytes(kind, sizes(model.get_submodule(name))) for name, kind in kinds.items()))
    for name, kind in kinds.items():
        model.set_submodule(name, in_panels(model.get_submodule(name), kind, arena))
    for block in model.blocks:
        block.attn.attend = attend_natively if block.attn.attend is attend_fused else block.attn.attend
    return QuickTransformer(model.requires_grad_(False))


class QuickTransformer(Transformer):
    """A Transformer whose `hidden` takes a short way over a cache. Whoever looks gets the long one.

    Its weights stay where they are and as they are, for native code knows their places. It can be copied.
    """

    step: Step | None

    def __init__(self, model: Transformer) -> None:
        nn.Module.__init__(self)  # the parts are there: nothing is made anew
        self.config, self.embed, self.position, self.dropout = model.config, model.embed, model.position, model.dropout
        self.blocks, self.final_norm, self.unembed = model.blocks, model.final_norm, model.unembed
        self.eval().prepare()

    def prepare(self) -> None:
        """Take the short way if every part is as native code knows it."""
        self.step = Step(self) if makes_steps(self) else None

    def hidden(self, ids: Tensor, cache: NoCache | None = None) -> Tensor:  # (b, t) -> (b, t, d)
        step = self.step
        if step is None or not isinstance(cache, KVCache) or not step.takes(ids, cache):
            return super().hidden(ids, cache)
        self.position.check_length(cache.length + ids.shape[1])
        return step(ids, cache)

    def set_submodule(self, target: str, module: nn.Module, strict: bool = False) -> None:
        super().set_submodule(target, module, strict)
        self.prepare()

    def train(self, mode: bool = True) -> Self:
        if mode:
            raise FathomError("a model made ready for inference cannot be trained; load it anew for that")
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `to`, `float`, `cuda` and their kind do: nothing if all stays as it is, else it is refused."""
        now = self.embed.weight.new_empty(0)
        new = fn(now)
        if (new.dtype, new.device) != (now.dtype, now.device):
            raise FathomError(
                f"a model made ready for inference stays in {str(now.dtype)[6:]} on {now.device}; load it anew for"
                f" {str(new.dtype)[6:]} on {new.device}"
            )
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: part for name, part in vars(self).items() if name != "step"}  # it knows places in memory

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.prepare()


def kind_of(part: nn.Module) -> str | None:
    """Which panels a part becomes as it is; None: it stays what it is."""
    if isinstance(part, QuantLinear):
        return part.scheme.name if part.scheme.name in PACKED else None
    if type(part) is not nn.Linear or part.weight.dtype not in FLOATS:
        return None
    return "bf16" if part.weight.dtype == torch.bfloat16 else "fp32"


def sizes(part: nn.Module) -> tuple[int, int]:
    assert isinstance(part, nn.Linear | QuantLinear)
    return part.out_features, part.in_features


def in_panels(part: nn.Module, kind: str, arena: Arena) -> PanelLinear:
    """The layer with its weights in the arena; a float matrix that is to be small becomes int8 on the way."""
    assert isinstance(part, nn.Linear | QuantLinear)
    if isinstance(part, nn.Linear) and kind not in PACKED:
        return PanelLinear(from_float(part.weight, part.bias, arena), part.bias)
    codes = part.packed if isinstance(part, QuantLinear) else packed(part.weight)
    return PanelLinear(from_groups(kind, codes, sizes(part), part.bias, arena), part.bias)


def packed(weight: Tensor) -> Packed:
    """A matrix in int8, some rows at a time, as whole it would take many times its memory."""
    pieces = [scheme_named("int8").quantize(rows) for rows in weight.detach().split(ROWS)]
    return {field: torch.cat([piece[field] for piece in pieces]) for field in ("codes", "scales")}
