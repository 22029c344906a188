"""A model cut for several GPUs, put together again when it is read.

Each GPU had some rows of most matrices, some columns of those whose results are added up, and a copy of every norm
(Megatron-LM, Shoeybi et al. 2019, section 3). The embedding was cut by columns up to LLaMA 2 (`ParallelEmbedding` in
Meta's model.py) and by rows since LLaMA 3 (`VocabParallelEmbedding`): the shapes tell. Does not know files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.formats.names import column, join, split
from fathom.formats.opened import Stored

PLACES = column("llama", "meta")
OURS = {place.name: ours for ours, place in PLACES.items()}
BY_COLUMNS = ("blocks.N.attn.out", "blocks.N.mlp.down")

Shards = Mapping[str, Mapping[str, Stored]]  # the tensors of each file, by its name, in order


def file_name(shard: int) -> str:
    """As Meta names the files, counted from 0."""
    return f"consolidated.{shard:02}.pth"


def name_of(part: str) -> str:
    """Meta's name of the weight of one of our parts, in the first layer."""
    return join(PLACES[part].name, "0", ".weight")


def join_shards(shards: Shards, d_model: int) -> dict[str, Stored]:
    """The tensors of the whole model. FathomError: a shard is missing, too many, or not of the same model."""
    first, *others = shards
    for other in others:
        _compare(first, shards[first], other, shards[other])
    _require_count(list(shards), shards[first], d_model)
    return {
        name: _joined(name, list(shards), [shard[name] for shard in shards.values()], d_model) for name in shards[first]
    }


def _compare(one: str, tensors: Mapping[str, Stored], other: str, others: Mapping[str, Stored]) -> None:
    for name in tensors.keys() ^ others.keys():
        has, lacks = (one, other) if name in tensors else (other, one)
        raise FathomError(f"{has} has {name!r} and {lacks} does not; expected shards of one model")
    for name, a in tensors.items():
        b = others[name]
        if (a.shape, a.kind) != (b.shape, b.kind):
            raise FathomError(
                f"{name!r} is {a.kind} {a.shape} in {one}, {b.kind} {b.shape} in {other}; expected shards of one model"
            )


def _require_count(files: Sequence[str], tensors: Mapping[str, Stored], d_model: int) -> None:
    """FathomError unless the rows of the first query matrix are as many as this number of shards leaves to each."""
    name = name_of("blocks.N.attn.q")
    if name not in tensors:
        raise FathomError(f"{files[0]} has no {name!r}; expected the weights of a LLaMA")
    rows, count = tensors[name].shape[0] if tensors[name].shape else 0, len(files)
    if rows * count == d_model:
        return
    found = f"{files[0]} has {rows} of {d_model} rows of {name!r}"
    if not rows or d_model % rows:
        raise FathomError(f"{found}, which is no whole fraction; the files and {d_model=} are not of one model")
    if d_model // rows > count:
        raise FathomError(f"{found}: one shard of {d_model // rows}; there are {count}, without {file_name(count)}")
    raise FathomError(f"{found}: one shard of {d_model // rows}; there are {count}: remove those of another model")


def _joined(name: str, files: Sequence[str], parts: Sequence[Stored], d_model: int) -> Stored:
    whole = parts[0]
    if len(parts) == 1:
        return whole
    dim = _cut(name, whole.shape, d_model)
    if dim is None:
        return replace(whole, read=partial(_same, name, files, parts))
    shape = tuple(size * len(parts) if i == dim else size for i, size in enumerate(whole.shape))
    return Stored(shape, whole.kind, sum(part.nbytes for part in parts), partial(_concatenated, parts, dim))


def _cut(name: str, shape: tuple[int, ...], d_model: int) -> int | None:
    """Along which dimension the tensor was cut; None: each shard has a copy."""
    ours = OURS.get(split(name)[0])
    if len(shape) < 2:
        return None
    if ours == "embed":
        return 0 if shape[1] == d_model else 1
    return 1 if ours in BY_COLUMNS else 0


def _concatenated(parts: Sequence[Stored], dim: int) -> Tensor:
    return torch.cat([part.read() for part in parts], dim)


def _same(name: str, files: Sequence[str], parts: Sequence[Stored]) -> Tensor:
    """The tensor that all shards hold alike, bit by bit."""
    whole, *copies = [part.read() for part in parts]
    for file, copy in zip(files[1:], copies):
        if not torch.equal(_bytes(whole), _bytes(copy)):
            raise FathomError(f"{name!r} differs between {files[0]} and {file}; expected copies: shards of one model")
    return whole


def _bytes(tensor: Tensor) -> Tensor:
    """NaN equals itself this way."""
    return tensor.reshape(-1).view(torch.uint8)
