"""Adapters as native code adds them: a change of low rank to layers in panels, with a weight of its own for each row.

The room of adapters lies above this one: it enters its class in ADAPTED, which has what `Adapted` says.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fathom.anatomy.swap import kind_of, what_is
from fathom.backend.linear import PanelLinear
from fathom.errors import FathomError
from fathom.native.interface import Adapter
from fathom.words import counted

LowRank = tuple[Tensor, Tensor, float]  # a (rank, in), b (out, rank), scale: y changes by scale b a x
ADAPTED: set[type[nn.Module]] = set()  # classes of layers with adapters


class Active(Protocol):
    """Which adapters are active, shared by all layers: a weight for each, a number or (b, 1, 1)."""

    @property
    def weights(self) -> Mapping[str, float | Tensor]: ...


class Adapted(Protocol):
    """A layer with adapters."""

    base: nn.Module
    active: Active

    def low_rank(self) -> dict[str, LowRank]:
        """What each adapter is. FathomError, in one line, where one is more than that."""


def panels_of(part: Any) -> nn.Module:
    """The layer itself, without its adapters."""
    return part.base if type(part) in ADAPTED else part


def require_plain(name: str, part: Any) -> None:
    """FathomError where native code does not compute a layer with adapters: what they are, or where its weights lie."""
    if kind_of(part) not in ADAPTED or kind_of(part.base) is not PanelLinear:
        raise FathomError(what_is(name, part))
    try:
        part.low_rank()
    except FathomError as error:
        raise FathomError(f"{name} {error}") from None


class Adapters:
    """All of a model, in one order: those of a layer as structures, and the weights of a pass."""

    def __init__(self, layers: Iterable[Adapted]) -> None:
        layers = list(layers)
        self.active = layers[0].active if layers else None
        self.names = list(dict.fromkeys(name for layer in layers for name in layer.low_rank()))

    def structures(self, layer: Adapted, hold: Any) -> Any:
        """Of each adapter, of rank 0 where this layer has none of that name. hold: gives the addresses of a and b."""
        found = layer.low_rank()
        parts = [(len(found[name][0]), *hold(*found[name]), found[name][2]) if name in found else (0, None, None, 0.0)
                 for name in self.names]  # fmt: skip
        return (Adapter * len(parts))(*(Adapter(*part) for part in parts))

    def weights(self, rows: int) -> Tensor | None:
        """(adapters, rows) in fp32; None where none is active. FathomError where they are for other rows."""
        active = {} if self.active is None else self.active.weights
        if not any(name in active for name in self.names):
            return None
        result = torch.zeros(len(self.names), rows)
        for row, name in zip(result, self.names):
            weight = active.get(name, 0.0)
            if isinstance(weight, Tensor) and len(weight) != rows:
                found = f"{counted(rows, 'row')}, and adapters for {len(weight)}"
                raise FathomError(f"{found}; choose one for each row, or None")
            row.copy_(torch.as_tensor(weight).flatten())
        return result
