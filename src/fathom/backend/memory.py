"""What native code reads and extends of a cache: where keys and values of each layer lie, in one piece or in pages."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fathom.backend.linear import FLOATS
from fathom.backend.pages import PAGE, PagedCache
from fathom.model.cache import KVCache
from fathom.native.interface import Memory, Model

Cache = KVCache | PagedCache


def fits(cache: Cache, rows: int, model: Model, windows: Sequence[int | None]) -> bool:
    """Whether the cache has the sizes of the model and `rows` rows, and lies in memory as native code reads it."""
    if isinstance(cache, PagedCache):
        pages, sizes = cache.pages, (model.n_layer, cache.pages.n_pages, model.g)
        inside = (model.c // 2, PAGE, 2) if pages.paired else (model.c, PAGE)
        dtype = pages.keys.dtype
        whole = lies_as(pages.keys, (*sizes, *inside), dtype) and lies_as(pages.values, (*sizes, PAGE, model.c), dtype)
        odd = dtype == torch.bfloat16 and not pages.paired
        return whole and not odd and len(cache.tables) == len(cache.lengths) == rows and pages.windows == windows
    parts = ((cache.store, len(cache.rows), cache.capacity), (cache.near, len(cache.near_rows), cache.span))
    sizes, dtype = (2, rows, model.g), cache.store.dtype
    whole = all(lies_as(store, (count, *sizes, length, model.c), dtype) for store, count, length in parts)
    return whole and len(cache.rows) + len(cache.near_rows) == model.n_layer and cache.windows == windows


def lies_as(x: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    return x.shape == shape and x.dtype == dtype and dtype in FLOATS and x.is_cpu and x.is_contiguous()


def memories(cache: Cache) -> Any:
    """Of each layer, a structure. Addresses are computed: views would take longer than a small layer."""
    if isinstance(cache, PagedCache):
        (keys, key_step), (values, value_step) = first_and_step(cache.pages.keys), first_and_step(cache.pages.values)
        count = len(cache.pages.keys)
        return (Memory * count)(*(Memory(keys + i * key_step, values + i * value_step, 0, 0) for i in range(count)))
    found: dict[int, Memory] = {}
    for store, rows, length, begin in (
        (cache.store, cache.rows, cache.capacity, 0),
        (cache.near, cache.near_rows, cache.span, cache.begin),
    ):
        first, step = first_and_step(store)
        for layer, row in rows.items():
            found[layer] = Memory(first + row * step, first + row * step + step // 2, length, begin)
    return (Memory * len(found))(*(found[layer] for layer in range(len(found))))


def first_and_step(x: Tensor) -> tuple[int, int]:
    """The address of x[0], and the bytes to x[1]."""
    return x.data_ptr(), x.stride(0) * x.element_size()


def paging(cache: Cache) -> tuple[int, int, int | None, int | None]:
    """Pages in the pool and in a table, and the addresses of tables and lengths; of a cache in one piece, none."""
    if not isinstance(cache, PagedCache):
        return 0, 0, None, None
    tables = cache.tables
    return cache.pages.n_pages, tables.shape[1], tables.data_ptr(), cache.lengths.data_ptr()
