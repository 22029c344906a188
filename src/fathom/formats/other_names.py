"""Tensors of formats that no family describes, under our own names: a table says what each of ours is called there.

Cells are names of `fathom/families/names.py`; of its marks `[1/3]` alone is used, for queries, keys and values that are
one tensor: one after another, or, as litgpt once had them, those of one head of keys together (`[1/3]` of `attn.attn`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from fathom.errors import FathomError, near
from fathom.families.names import Place, join, split
from fathom.families.shapes import weight_shapes
from fathom.formats.opened import Stored
from fathom.model.config import ModelConfig, ResolvedConfig

if TYPE_CHECKING:
    from torch import Tensor

TOGETHER = "attn.attn"  # the end of the name of a tensor that holds each head of keys with its queries and its value


def under_our_names(
    config: ModelConfig, table: Mapping[str, Place], tensors: Mapping[str, Stored], where: str
) -> dict[str, Stored]:
    """Each of our tensors. FathomError where one is missing or the file holds one that has no place."""
    z, used, result = config.resolved(), set[str](), dict[str, Stored]()
    for ours in weight_shapes(config):
        part, layer, suffix = split(ours)
        if part not in table:
            raise FathomError(
                f"{where}: this format has no {part}; it cannot hold the model that its settings describe"
            )
        name = join(table[part].name, layer, suffix)
        if name not in tensors:
            raise FathomError(f"{where}: {name!r} is missing{near(name, tensors)}; fetch the file again")
        used.add(name)
        result[ours] = tensors[name] if table[part].parts == 1 else part_of(tensors[name], table[part], z, where)
    unembed = join(table["unembed"].name, "", ".weight")
    if spare := sorted(tensors.keys() - used - {unembed}):
        raise FathomError(f"{where}: {spare[0][:80]!r} has no place in this model{near(spare[0][:80], used)}")
    if config.tie_embeddings and unembed in tensors:
        result["unembed.weight"] = tensors[unembed]
    return result


def part_of(stored: Stored, place: Place, z: ResolvedConfig, where: str) -> Stored:
    """Queries, keys or values of a tensor that holds all three."""
    sizes = (z.n_head * z.head_dim, z.n_kv_head * z.head_dim, z.n_kv_head * z.head_dim)
    if not stored.shape or stored.shape[0] != sum(sizes):
        raise FathomError(
            f"{where}: {place.name} is {stored.shape}; expected {sum(sizes)} rows of queries, keys and values"
        )
    start, size = sum(sizes[: place.part - 1]), sizes[place.part - 1]

    def read() -> Tensor:
        x = stored.read()
        if place.name.endswith(TOGETHER):
            x = x.unflatten(0, (z.n_kv_head, -1, z.head_dim))
            shared = z.n_head // z.n_kv_head
            return (x[:, :shared], x[:, shared], x[:, shared + 1])[place.part - 1].reshape(size, *stored.shape[1:])
        return x[start : start + size]

    shape = (size, *stored.shape[1:])
    return replace(stored, shape=shape, nbytes=stored.nbytes * math.prod(shape) // math.prod(stored.shape), read=read)
