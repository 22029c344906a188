"""Change what a model computes while it runs: zero, scale or replace named activations.

An edit is a name and a function from the tensor of that name to another of the same shape, dtype and device. It is
active inside its `with`. An edit of scores or pattern sends that layer, and only it, down the explicit attention path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.inspect.hooks import ROUTED, Watcher, watching
from fathom.inspect.look import require_transformer
from fathom.inspect.names import names, select
from fathom.model.transformer import Transformer

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Edit:
    """What to do to the tensors whose names match a pattern; with `head`, to that head alone."""

    pattern: str
    function: Function
    head: int | None = None


def replace(pattern: str, function: Function, head: int | None = None) -> Edit:
    """Replace x by function(x); `lambda x: seen["blocks.1"]` patches in a recording of another pass."""
    return Edit(pattern, function, head)


def scale(pattern: str, factor: float, head: int | None = None) -> Edit:
    """Replace x by factor * x."""
    return Edit(pattern, lambda x: x * factor, head)


def zero(pattern: str, head: int | None = None) -> Edit:
    """An edit that replaces the tensors whose names match `pattern`, or one `head` of them, by zeros.

    >>> with fathom.edit(model, fathom.zero("blocks.0.attn.z", head=3)):
    ...     model(ids)
    """
    return Edit(pattern, torch.zeros_like, head)


@contextmanager
def edit(model: Transformer, *edits: Edit) -> Iterator[None]:
    """Change what a model computes inside a `with` block. No weight is changed.

        >>> with fathom.edit(model, fathom.zero("blocks.1.mlp")):
        ...     without = model(ids)

    edits: applied in this order to every pass of the model in this thread; made by `fathom.zero`, or by `scale` and
    `replace` of fathom.inspect.edit. The names are those of `fathom.look`.

    FathomError for a name that the model lacks, for a result of another shape, dtype or device, and on leaving if an
    edit was never applied. Masked keys stay masked whatever an edit makes of the scores.
    """
    watcher = Editing(require_transformer(model), edits)
    with watching(model, watcher):
        yield
    if idle := [name for name in watcher.chosen if name not in watcher.fired]:
        raise FathomError(f"the edit of {', '.join(idle)} was never applied; run the model inside the `with`")


class Editing(Watcher):
    """The watcher behind `edit`."""

    reads = False

    def __init__(self, model: Transformer, edits: tuple[Edit, ...]) -> None:
        letters = names(model.config)
        self.edits: dict[str, list[Function]] = {}
        for one in edits:
            for name in select(model.config, [one.pattern]):
                if name.endswith(ROUTED):
                    raise FathomError(f"{name} follows from {name.rpartition('.')[0]}.router; edit that")
                act = one.function if one.head is None else on_head(one, name, letters[name], model)
                self.edits.setdefault(name, []).append(act)
        self.fired: set[str] = set()
        super().__init__(self.edits)

    def see(self, name: str, x: Tensor) -> Tensor:
        self.fired.add(name)
        new = x
        for function in self.edits[name]:
            new = checked(name, x, function(new.clone()))  # a copy, so that x stays unchanged
        if name.endswith(".scores"):
            new = new.masked_fill(x == float("-inf"), float("-inf"))
        return new


def on_head(one: Edit, name: str, letters: str, model: Transformer) -> Function:
    """The edit's function applied to one head of the tensor of this name."""
    dim = next((letters.index(letter) for letter in "hg" if letter in letters), None)
    if dim is None:
        raise FathomError(f"{name} has no heads; leave out head={one.head}, or edit {name}.z")
    count, head = (model.config.n_head if letters[dim] == "h" else model.config.n_kv_head), one.head or 0
    if not -count <= head < count:
        raise FathomError(f"head={head}, but {name} has heads 0 to {count - 1}")

    def act(x: Tensor) -> Tensor:
        part = x.select(dim, head)
        part.copy_(checked(name, part, one.function(part.clone())))
        return x

    return act


def checked(name: str, old: Tensor, new: Tensor) -> Tensor:
    """`new`, where it can replace `old`; else FathomError."""
    if not isinstance(new, Tensor):
        raise FathomError(f"the edit of {name} returned {type(new).__name__}; expected a tensor")
    for what in ("shape", "dtype", "device"):
        if (actual := getattr(new, what)) != (expected := getattr(old, what)):
            raise FathomError(
                f"the edit of {name} returned {what} {actual}; expected {expected}: keep shape, dtype and device"
            )
    return new
