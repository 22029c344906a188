"""Several adapters in one model: one at a time, a blend of them, or another one for each row of a batch.

What adapters add to a matrix adds up: W + sum of weight_i delta_i. Does not know what a delta is made of.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from fathom.adapters.layer import Weight
from fathom.adapters.lora import apart, disable, scale, wrapped
from fathom.errors import FathomError
from fathom.model.transformer import Transformer


def switch(model: Transformer, name: str | None) -> None:
    """Let this adapter count and no other; None: the base alone."""
    blend(model, {} if name is None else {name: 1.0})


def blend(model: Transformer, weights: Mapping[str, Weight]) -> None:
    """Let these adapters count, each by its weight, and no other: W + sum of weight_i delta_i."""
    for name in weights:
        wrapped(model, name)  # that there is such a one, before anything changes
    disable(model)
    for name, weight in weights.items():
        scale(model, name, weight)


@contextlib.contextmanager
def rows(model: Transformer, chosen: Sequence[str | None]) -> Iterator[None]:
    """`with rows(model, ["french", None, "poems"]): ...` gives each row of a batch its own adapter; None: the base.

    Every adapter named is worked out for all rows, and counts 0 in those of others. For passes over the whole batch,
    `model(ids)`: FathomError in one over another number of rows, as `stream` makes when some have ended.
    """
    apart(model)
    own, parts = model.embed.weight, wrapped(model).values()
    weights = {
        name: torch.tensor([row == name for row in chosen]).to(own.device, own.dtype)[:, None, None]  # (b, 1, 1)
        for name in dict.fromkeys(chosen)
        if name is not None and wrapped(model, name)
    }
    before = [part.active for part in parts]

    def count(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if len(given[0]) != len(chosen) or (given[0].is_floating_point() and given[0].ndim != 3):
            raise FathomError(f"{len(given[0])} rows, and adapters for {len(chosen)}; choose one for each row, or None")

    hooks = [part.register_forward_pre_hook(count) for part in (model.embed, model.unembed)]
    try:
        for part in parts:
            part.active = {name: weight for name, weight in weights.items() if name in part.adapters}
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for part, active in zip(parts, before):
            part.active = active
