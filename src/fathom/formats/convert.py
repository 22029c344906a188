"""A model's tensors between formats: which stored tensor each of ours comes from, and what a file of a format holds.

A plan names the stored tensor behind every one of ours, and is checked once: a tensor that is missing, misshapen or
unknown is an error. Tensors are read one by one as the plan is carried out, so that a model is never in memory twice.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from fathom.anatomy.cost import n_parameters
from fathom.errors import FathomError, near
from fathom.families.names import Place
from fathom.families.registry import of
from fathom.families.shapes import weight_shapes
from fathom.formats.opened import CHUNK, Opened, Stored
from fathom.model.config import ModelConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from fathom.lazy import torch


Shapes = Mapping[str, tuple[int, ...]]
SHOWN = 4  # problems in one error


@dataclass(frozen=True)
class Source:
    """Where one of our tensors comes from: a stored tensor, and its place there."""

    stored: Stored
    place: Place

    @property
    def numel(self) -> int:
        return round(math.prod(self.stored.shape) * self.place.share)

    def read(self) -> Tensor:
        """Our tensor, mapped into memory where the stored one is ours as it is."""
        return self.place.read(self.stored.read())


def compare_tied(opened: Opened) -> Opened:
    """The model itself; where its config ties the unembedding to the embedding and the file holds both with different
    numbers, untied and with a warning, as transformers does: an adapter that changed one of them was merged."""
    names = (f"{part}.weight" for part in ("embed", "unembed"))
    if opened.family is not None:
        tensors = opened.family.columns[opened.names].tensors
        names = (f"{tensors[part].name}.weight" for part in ("embed", "unembed"))
    embed, unembed = (opened.tensors.get(name) for name in names)
    if not opened.config.tie_embeddings or embed is None or unembed is None or equal(embed, unembed):
        return opened
    warnings.warn(
        f"{opened.path}: the config ties the unembedding to the embedding, and the file holds two different ones; both"
        " are used",
        stacklevel=3,
    )
    return replace(opened, config=replace(opened.config, tie_embeddings=False))


def equal(one: Stored, other: Stored) -> bool:
    """Whether two stored tensors hold the same numbers; reading stops at the first rows that differ."""
    if one is other or one.shape != other.shape or len(one.shape) != 2:
        return one is other
    count = one.shape[0]
    rows = max(1, CHUNK * count // max(one.nbytes, 1))
    pieces = ((i, min(i + rows, count)) for i in range(0, count, rows))
    return all(torch.equal(one.rows(*piece).float(), other.rows(*piece).float()) for piece in pieces)


def plan(opened: Opened) -> dict[str, Source]:
    """The source of each of our tensors; of two tied ones, of the first.

    FathomError naming the file unless its tensors are exactly those of its config, each in its shape.
    """
    config, family, names = opened.config, opened.family, opened.names
    try:
        refuse_larger(config, opened.tensors)
        shapes = weight_shapes(config)
        places = {name: Place(name) for name in shapes} if family is None else family.places(config, names)
        unembed = "unembed" if family is None else family.columns[names].tensors["unembed"].name
        tied = {f"{unembed}.weight"} if config.tie_embeddings else set()
        actual = {name: tensor.shape for name, tensor in opened.tensors.items() if name not in tied}
        require_equal(stored_shapes(shapes, places), actual)
    except FathomError as error:
        raise FathomError(f"{opened.path}: {error}") from None
    return {ours: source(opened.tensors, place) for ours, place in places.items()}


def source(tensors: Mapping[str, Stored], place: Place) -> Source:
    """Of one expert, whose tensors are stored as one: that part of them. Of heads that are stored apart: all."""
    parts = [tensors[name] for name in place.names]
    if place.stacked:
        return Source(parts[0].item(place.expert), replace(place, stacked=False))
    return Source(stacked(parts) if place.apart else parts[0], place)


def stacked(parts: Sequence[Stored]) -> Stored:
    """Small tensors of one shape as one, along a new first axis."""
    nbytes = sum(part.nbytes for part in parts)
    shape = (len(parts), *parts[0].shape)
    return Stored(shape, parts[0].kind, nbytes, lambda: torch.stack([part.read() for part in parts]))


def refuse_larger(config: ModelConfig, stored: Mapping[str, Stored]) -> None:
    """FathomError where a config describes a model many times larger than the file, before its tensors are listed."""
    held, count = sum(math.prod(tensor.shape) for tensor in stored.values()), n_parameters(config)
    if config.n_layer > len(stored) or count > 8 * held + 1_000_000:
        raise FathomError(
            f"the config has n_layer={config.n_layer} and {count:,} parameters; the file has {len(stored):,} tensors"
            f" with {held:,} numbers; they are not of one model"
        )


def require_equal(expected: Shapes, actual: Shapes) -> None:
    """FathomError naming what is missing, unknown or of another shape, with near matches."""
    spare = [name for name in actual if name not in expected]
    problems: list[tuple[str, str, list[str]]] = [
        *((name, "is missing", spare) for name in expected if name not in actual),
        *((name, "has no place in this model", list(expected)) for name in sorted(spare)),
        *(
            (name, f"is {tuple(actual[name])}; the config expects {shape}", [])
            for name, shape in expected.items()
            if name in actual and tuple(actual[name]) != tuple(shape)
        ),
    ]
    if problems:
        shown = [f"{name!r} {what}{near(name, known)}" for name, what, known in problems[:SHOWN]]  # near is slow
        more = f"; and {len(problems) - SHOWN} more" * (len(problems) > SHOWN)
        raise FathomError(f"the tensors and the config are not of one model: {'; '.join(shown)}{more}")


def read_ours(opened: Opened) -> Iterator[tuple[str, Tensor]]:
    """Each of our tensors, read when its turn comes; of two tied ones the first."""
    return ((name, source.read()) for name, source in plan(opened).items())


def from_ours(config: ModelConfig, state: Mapping[str, Tensor], format: str) -> dict[str, Tensor]:
    """The tensors of a file of a format (hf, meta, gguf) from the state dict of `Transformer(config)`."""
    return {name: make() for name, make in makers(of(config).places(config, format), state).items()}


def makers(places: Mapping[str, Place], state: Mapping[str, Tensor]) -> dict[str, Callable[[], Tensor]]:
    """What makes each tensor of a file: those that are rearranged need not all be in memory at once."""
    result: dict[str, Callable[[], Tensor]] = {}
    for name, ours in together(places).items():
        place = places[ours[0]]
        write = partial(place.write, [state[part] for part in ours])
        heads = {each: partial(item, write, head) for head, each in enumerate(place.names)}
        result |= heads if place.apart else {name: write}
    return result


def item(make: Callable[[], Tensor], i: int) -> Tensor:
    return make()[i]


def together(places: Mapping[str, Place]) -> dict[str, list[str]]:
    """The name of each stored tensor and ours that it holds, in order."""
    result: dict[str, list[str]] = {}
    for ours, place in sorted(places.items(), key=lambda item: (item[1].stacked * item[1].expert, item[1].part)):
        result.setdefault(place.name, []).append(ours)
    return result


def stored_shapes(shapes: Shapes, places: Mapping[str, Place]) -> dict[str, tuple[int, ...]]:
    """The tensors of a file that holds ours, of these shapes, at these places."""
    result: dict[str, tuple[int, ...]] = {}
    for ours in together(places).values():
        place = places[ours[0]]
        shape = place.shape([shapes[part] for part in ours])
        result |= dict.fromkeys(place.names, shape[1:] if place.apart else shape)
    return result
