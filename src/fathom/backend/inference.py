"""A model prepared for inference: fast linear layers put in from outside, and a step that computes all blocks at once.

On a CPU the linear layers become panels and a step is one native call; on a GPU they read their weights once and a step
is a CUDA graph. Where a part has no such form, or there is no compiler, the blocks run one by one as in any model.
"""

import warnings
from collections.abc import Callable
from itertools import chain
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from fathom.anatomy.swap import exchange_hooks, kind_of, parts, swap, what_is
from fathom.backend.linear import FLOATS, PanelLinear, PanelUnembed
from fathom.backend.memory import Cache
from fathom.backend.pages import PagedCache
from fathom.backend.step import PLAIN_ATTENTION, NativeStep, attend_natively
from fathom.errors import FathomError
from fathom.families.plain import computes_as
from fathom.model.attention import Attention
from fathom.model.cache import KVCache, NoCache
from fathom.model.ends import ScaledUnembed
from fathom.model.transformer import Transformer
from fathom.native.build import library, status
from fathom.native.panels import DTYPES, PACKED, Arena, from_float, from_groups, panel_bytes
from fathom.quant.linear import QuantLinear, QuantUnembed
from fathom.quant.scheme import Packed
from fathom.quant.schemes import scheme_named

ROWS = 4096  # of a matrix that are packed at a time
LINEAR = (nn.Linear, ScaledUnembed, QuantLinear, QuantUnembed)  # layers that become panels


class Step(Protocol):
    """`Transformer.hidden` over a cache in one piece."""

    @property
    def status(self) -> str:
        """What computes it, for users; "" where that is said already."""

    @property
    def cache(self) -> type[KVCache]:
        """The kind of cache that it reads."""

    def takes(self, ids: Tensor, cache: Cache) -> bool:
        """Whether it computes this pass; all others are for the blocks."""

    def __call__(self, ids: Tensor, cache: Any) -> Tensor:
        """ids (b, t) -> (b, t, d), and the cache advanced by t."""


def prepare_for_inference(model: Transformer) -> Transformer:
    """The same model, for inference alone: converted in place, so discard the original. One in fp16 on a CPU, without
    native code or on another kind of device is returned as it is; so is one whose own `forward` or `hidden` is not that
    of Transformer, with a warning.

    Logits are those of the plain model up to rounding: fp32 and bf16 weights within the rounding of their format; int8,
    int4 and k-quant weights meet x in 8 bits on a CPU. Where the blocks have such, an `unembed` of floats becomes int8.
    """
    weight = model.embed.weight
    if isinstance(model, InferenceModel):
        return model
    if kind_of(model) is not Transformer or "hidden" in vars(model):
        own = " with a hidden of its own" if "hidden" in vars(model) else ""
        warnings.warn(f"not prepared for inference: {what_is('the model', model)}{own}; it runs as it is", stacklevel=2)
        return model
    if weight.is_cuda:
        from fathom.backend.cuda_graph import RecordedStep
        from fathom.backend.matvec import use_matvec

        why_not = use_matvec(model)
        kernels = f"no matvec kernels: {why_not}" if why_not else "matvec kernels"
        return InferenceModel(model.requires_grad_(False), RecordedStep, kernels)
    if not weight.is_cpu or weight.dtype not in FLOATS or library("panels") is None or library("step") is None:
        return model
    use_panels(model)
    plain = [name for name in parts(model, Attention) if model.get_submodule(name).attend in PLAIN_ATTENTION]
    swap(model, attend=attend_natively, names=plain)
    return InferenceModel(model.requires_grad_(False), NativeStep, status())


def use_panels(model: Transformer) -> None:
    """Exchange the linear layers one by one, so that no two weights are in memory twice."""
    kinds = {name: kind for name in parts(model, *LINEAR) if (kind := kind_of_panels(model, name))}
    if kinds.get("unembed") in DTYPES and any(kind in PACKED for kind in kinds.values()):  # adapters: not in `kinds`
        kinds["unembed"] = "int8"
    arena = Arena(sum(panel_bytes(kind, sizes(model.get_submodule(name))) for name, kind in kinds.items()))
    for name, kind in kinds.items():
        new = dict.fromkeys(LINEAR, lambda part, kind=kind: in_panels(part, kind, arena))
        swap(model, new, names=[name])
    arena.filled()


@computes_as(Transformer)
class InferenceModel(Transformer):
    """A Transformer whose `hidden` is a step where there is one, and its blocks one by one elsewhere.

    Its weights stay where they are, as native code and graphs have their addresses; norms and biases may be changed in
    place. It can be copied.
    """

    prepared: Step | None

    def __init__(self, model: Transformer, make_step: Callable[[Transformer], Step], kernels: str = "") -> None:
        """make_step: raises FathomError, with the part that it does not support, where there is no step. kernels: what
        the parts compute with, for `status`."""
        nn.Module.__init__(self)  # takes over the parts of the model, and makes none
        self.config, self.embed, self.position, self.dropout = model.config, model.embed, model.position, model.dropout
        self.embed_norm = model.embed_norm
        self.blocks, self.final_norm, self.unembed = model.blocks, model.final_norm, model.unembed
        self.source = model.source
        exchange_hooks(model, self)
        self.make_step, self.kernels = make_step, kernels
        self.eval().prepare()

    def prepare(self) -> None:
        """Make the step for the parts as they are now."""
        modules = [part for name, part in self.named_modules() if not name.startswith("unembed")]
        self.submodules = [part._modules for part in modules if part._modules]
        self.attentions = [vars(block.attn) for block in self.blocks]
        self.hooks = [hooks for part in modules[1:] for hooks in (part._forward_hooks, part._forward_pre_hooks)]
        self.parts, self.prepared, self.reason = self.parts_in_use(), None, ""
        try:
            self.prepared = self.make_step(self)
        except FathomError as error:
            self.reason = str(error)

    def parts_in_use(self) -> list[object]:
        """All parts, their classes, and what attention calls: what a step is made for. Compared for every token."""
        parts = [*chain.from_iterable(modules.values() for modules in self.submodules)]
        return [*parts, *map(type, parts), *[attention.get("attend") for attention in self.attentions]]

    @property
    def step(self) -> Step | None:
        """What computes in place of the blocks; None where it would not do what they do: a part has been exchanged for
        an unknown one, or has hooks."""
        if self.parts != self.parts_in_use():
            self.prepare()
        return None if any(self.hooks) else self.prepared

    @property
    def status(self) -> str:
        """What computes, in one line."""
        step = self.step
        steps = f"block by block, as {self.reason or 'a part has hooks'}" if step is None else step.status
        return ", ".join(filter(None, (self.kernels, steps)))

    def hidden(self, ids: Tensor, cache: NoCache | None = None) -> Tensor:  # (b, t) -> (b, t, d)
        step = self.step
        if step is None or not isinstance(cache, KVCache | PagedCache) or not step.takes(ids, cache):
            return super().hidden(ids, cache)
        self.end(ids, cache)
        return step(ids, cache)

    def train(self, mode: bool = True) -> Self:
        if mode:
            raise FathomError("a model prepared for inference cannot be trained; load it again for that")
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `to`, `float`, `cuda` and the like do: refused where anything would change."""
        now = self.embed.weight.new_empty(0)
        new = fn(now)
        if (new.dtype, new.device) != (now.dtype, now.device):
            raise FathomError(
                f"a model prepared for inference stays in {str(now.dtype)[6:]} on {now.device}; load it again for"
                f" {str(new.dtype)[6:]} on {new.device}"
            )
        return self

    def __getstate__(self) -> dict[str, Any]:
        of_these_parts = ("prepared", "parts", "submodules", "attentions", "hooks")
        return {name: part for name, part in vars(self).items() if name not in of_these_parts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.prepare()


def cache_for(model: Transformer, batch: int, length: int) -> KVCache:
    """An empty cache in the model's format and place, of the kind that its step takes."""
    step, weight = (model.step if isinstance(model, InferenceModel) else None), model.embed.weight
    kind = KVCache if step is None else step.cache
    return kind(model.config, batch, length, weight.dtype, weight.device)


def kind_of_panels(model: Transformer, name: str) -> str | None:
    """Which panels a linear layer becomes as it is; None: it stays what it is."""
    part = model.get_submodule(name)
    if isinstance(part, QuantLinear):
        return part.scheme.name if part.scheme.name in PACKED else None
    assert isinstance(part, nn.Linear)
    return {torch.bfloat16: "bf16", torch.float32: "fp32"}.get(part.weight.dtype)


def sizes(part: nn.Module) -> tuple[int, int]:
    assert isinstance(part, nn.Linear | QuantLinear)
    return part.out_features, part.in_features


def in_panels(part: nn.Linear | QuantLinear, kind: str, arena: Arena) -> PanelLinear:
    """The layer with its weights in the arena; a float matrix that is to be int8 is packed on the way."""
    if isinstance(part, nn.Linear) and kind not in PACKED:
        panels = from_float(part.weight, part.bias, arena)
    else:
        fields = part.packed if isinstance(part, QuantLinear) else packed(part.weight)
        panels = from_groups(kind, fields, sizes(part), part.bias, arena)
    if isinstance(part, ScaledUnembed | QuantUnembed):
        return PanelUnembed(panels, part.bias, part.scale, part.cap)
    return PanelLinear(panels, part.bias)


def packed(weight: Tensor) -> Packed:
    """A matrix in int8, some rows at a time: as a whole it would take many times its memory."""
    pieces = [scheme_named("int8").quantize(rows) for rows in weight.detach().split(ROWS)]
    return {field: torch.cat([piece[field] for piece in pieces]) for field in ("codes", "scales")}
