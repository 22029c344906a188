"""What other tools do to the names of a Hugging Face folder's tensors, undone.

torch.compile puts `_orig_mod` before a module's name and DataParallel `module`; a base model, such as `LlamaModel`, is
saved without the name that its own whole model gives it, and without an unembedding.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fathom.anatomy.cost import BIAS_OF
from fathom.errors import FathomError
from fathom.families.family import Family
from fathom.families.names import split
from fathom.formats.opened import Stored
from fathom.model.config import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

WRAPPERS = re.compile(r"(?:^|(?<=\.))_orig_mod\.|^module\.")


def unwrapped(tensors: Mapping[str, T], where: str) -> dict[str, T]:
    """The tensors under their names before torch.compile and DataParallel. FathomError where two become one."""
    result = dict[str, T]()
    for name, tensor in tensors.items():
        plain = name
        while (shorter := WRAPPERS.sub("", plain)) != plain:
            plain = shorter
        if plain in result:
            raise FathomError(f"{where}: two tensors are {plain[:80]!r} without _orig_mod; expected one of each")
        result[plain] = tensor
    return result


def prefixed(family: Family, tensors: dict[str, Stored]) -> dict[str, Stored]:
    """With the first part of their names, such as `model.`, where the file leaves it out."""
    places = family.columns["hf"].tensors
    embed = places["embed"].name
    prefix, _, rest = embed.partition(".")
    if not any(name.startswith(rest + ".") for name in tensors) or any(
        name.startswith(embed + ".") for name in tensors
    ):
        return tensors
    outside = {place.name.partition(".")[0] for place in places.values()} - {prefix}
    return {
        name if name.partition(".")[0] in outside else f"{prefix}.{name}": tensor for name, tensor in tensors.items()
    }


def transposed(family: Family, tensors: dict[str, Stored], packed: Collection[str]) -> dict[str, Stored]:
    """Packed matrices are (out, in) in every family: as floats are stored where a family stores them as (in, out)."""
    flat = {place.name for place in family.columns["hf"].tensors.values() if place.transposed}

    def turned(stored: Stored) -> Stored:
        return replace(
            stored,
            shape=(*stored.shape[:-2], *stored.shape[:-3:-1]),
            read=lambda: stored.read().mT,
            unpack=lambda start, stop: turned_rows(stored, start, stop),
        )

    return {name: turned(x) if name in packed and split(name)[0] in flat else x for name, x in tensors.items()}


def turned_rows(stored: Stored, start: int, stop: int) -> Tensor:
    """Columns of one matrix, or the matrices of some experts."""
    return stored.rows(start, stop).mT if len(stored.shape) == 3 else stored.read().T[start:stop]


def without_empty_biases(
    family: Family, config: ModelConfig, tensors: dict[str, Stored], packed: Collection[str]
) -> dict[str, Stored]:
    """Without biases of zeros beside packed matrices of a model that has none there: AutoGPTQ gave every layer one."""
    ours = {place.name: part.removeprefix("blocks.N.") for part, place in family.columns["hf"].tensors.items()}

    def empty(name: str, stored: Stored) -> bool:
        part, _, suffix = split(name)
        return (
            suffix == ".bias"
            and f"{name.removesuffix('bias')}weight" in packed
            and part in ours
            and BIAS_OF.get(ours[part], "mlp") not in config.bias
            and not stored.read().any()
        )

    return {name: stored for name, stored in tensors.items() if not empty(name, stored)}


def with_head(family: Family, config: ModelConfig, tensors: Mapping[str, Stored], path: Path) -> ModelConfig:
    """The config; tied, with a warning, where the file holds no unembedding although it is not tied."""
    unembed = family.columns["hf"].tensors["unembed"].name + ".weight"
    if unembed in tensors or config.tie_embeddings:
        return config
    if not any(split(name)[1] for name in tensors):  # it holds no layers either: it is not whole
        return config
    warnings.warn(
        f"{path} holds a base model: {unembed} is missing, and the config does not tie it to the embedding; the"
        " embedding takes its place, so its predictions mean little",
        stacklevel=4,
    )
    return replace(config, tie_embeddings=True)
