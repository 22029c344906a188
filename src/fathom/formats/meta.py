"""Meta's own files, as LLaMA 1 to 3.2 were released: params.json, consolidated.NN.pth, tokenizer.model.

Each file is the share of one GPU: some rows of most matrices, some columns of those whose results are added up, and a
copy of every norm (Megatron-LM, Shoeybi et al. 2019, section 3). They are joined tensor by tensor as they are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fathom.errors import FathomError, near
from fathom.families.llama import CONTEXT, FAMILY, PARAMS, context_length, meta_name
from fathom.families.names import split
from fathom.families.values import Values
from fathom.files import new_folder, sync
from fathom.formats.convert import equal, from_ours
from fathom.formats.opened import Opened, Stored
from fathom.formats.saved_names import unwrapped
from fathom.formats.torch_file import open_pickle
from fathom.json_file import read_object, short
from fathom.model.config import ModelConfig
from fathom.tokenizer.load import read_model_file, to_model_file
from fathom.tokenizer.protocol import Tokenizer
from fathom.words import counted

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from fathom.lazy import torch


PARAMS_FILE, TOKENIZER = "params.json", "tokenizer.model"
OURS = "context.json"  # beside the others: the context length; Meta's code would refuse a field for it in params.json
PARTS = {place.name: ours for ours, place in FAMILY.columns["meta"].tensors.items()}
BY_COLUMNS = ("blocks.N.attn.out", "blocks.N.mlp.down")
EMBED, UNEMBED, QUERY = meta_name("embed"), meta_name("unembed"), meta_name("blocks.N.attn.q")

Shards = Mapping[str, Mapping[str, Stored]]  # the tensors of each file, by its name, in order


def open_meta(path: Path) -> Opened:
    """The model in a folder of Meta's, or the one that a .pth file belongs to."""
    folder = path if path.is_dir() else path.parent
    values = read_params(folder)
    d_model, files = values.count("dim"), shard_files(folder)
    if path.is_file() and path.name not in {file.name for file in files}:
        raise FathomError(
            f"{path} is not one of the shards {files[0].name} to {files[-1].name} beside it; give the folder"
        )
    shards = {file.name: open_shard(file) for file in files}
    try:
        tensors = join_shards(shards, d_model)
    except FathomError as problem:
        raise FathomError(f"{folder}: {problem}") from None
    config = FAMILY.read("meta", values, tensors)
    _, why = context_length(values, tensors[EMBED].kind)
    about = {"params": dict(values.entries), "context_length": f"{config.context_length}, {why}"}
    kind = f"Meta, {counted(len(files), 'shard')}"
    return Opened(path, kind, config, FAMILY, "meta", tensors, partial(_tokenizer, folder, config.vocab_size), about)


def read_params(folder: Path) -> Values:
    """params.json, with the context length where we wrote it beside. FathomError where a field is unknown."""
    entries, where = read_object(folder / PARAMS_FILE), str(folder / PARAMS_FILE)
    if (folder / OURS).is_file():
        entries[CONTEXT] = read_object(folder / OURS).get(CONTEXT)
    if unknown := entries.keys() - set(PARAMS):
        one = min(unknown)
        raise FathomError(f"{where}: unknown field {short(one)}{near(one[:40], PARAMS)}; known: {', '.join(PARAMS)}")
    return Values(entries, where)


def file_name(shard: int) -> str:
    """As Meta names the files, counted from 0."""
    return f"consolidated.{shard:02}.pth"


def shard_files(folder: Path) -> list[Path]:
    """The shards in order, from 00 on without a gap."""
    files = sorted(folder.glob("consolidated.*.pth"))
    if not files:
        raise FathomError(f"{folder} has {PARAMS_FILE} and no {file_name(0)}; put the weights beside it")
    for number, file in enumerate(files):
        if file.name != file_name(number):
            raise FathomError(f"{folder} has {file.name} and no {file_name(number)}; put all shards of one model there")
    return files


def open_shard(file: Path) -> dict[str, Stored]:
    """The weights in a shard; an unembedding that is the embedding itself, or a copy of it, is left out."""
    tensors = FAMILY.weights("meta", unwrapped(open_pickle(file), str(file)))
    if UNEMBED in tensors and EMBED in tensors and equal(tensors[UNEMBED], tensors[EMBED]):
        del tensors[UNEMBED]
    return tensors


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
    if QUERY not in tensors:
        raise FathomError(f"{files[0]} has no {QUERY!r}; expected the weights of a LLaMA")
    rows, count = tensors[QUERY].shape[0] if tensors[QUERY].shape else 0, len(files)
    if rows * count == d_model:
        return
    actual = f"{files[0]} has {rows} of {d_model} rows of {QUERY!r}"
    if not rows or d_model % rows:
        raise FathomError(f"{actual}, which is not a whole fraction; the files and {d_model=} are not of one model")
    if d_model // rows > count:
        raise FathomError(f"{actual}: one shard of {d_model // rows}; there are {count}, without {file_name(count)}")
    raise FathomError(f"{actual}: one shard of {d_model // rows}; there are {count}: remove those of another model")


def _joined(name: str, files: Sequence[str], parts: Sequence[Stored], d_model: int) -> Stored:
    whole = parts[0]
    if len(parts) == 1:
        return whole
    dim = _cut(name, whole.shape, d_model)
    if dim is None:
        return replace(whole, read=partial(_same, name, files, parts))
    shape = tuple(size * len(parts) if i == dim else size for i, size in enumerate(whole.shape))
    nbytes = sum(part.nbytes for part in parts)
    return Stored(shape, whole.kind, nbytes, lambda: torch.cat([part.read() for part in parts], dim))


def _cut(name: str, shape: tuple[int, ...], d_model: int) -> int | None:
    """Along which dimension the tensor was cut; None: each shard has a copy.

    The embedding was cut by columns up to LLaMA 2 (`ParallelEmbedding` in Meta's model.py) and by rows since LLaMA 3
    (`VocabParallelEmbedding`): its shape tells.
    """
    ours = PARTS.get(split(name)[0])
    if len(shape) < 2:
        return None
    if ours == "embed":
        return 0 if shape[1] == d_model else 1
    return 1 if ours in BY_COLUMNS else 0


def _same(name: str, files: Sequence[str], parts: Sequence[Stored]) -> Tensor:
    """The tensor that all shards hold alike, bit by bit."""
    whole, *copies = [part.read() for part in parts]
    for file, copy in zip(files[1:], copies):
        if not torch.equal(*(x.reshape(-1).view(torch.uint8) for x in (whole, copy))):  # bytes: NaN equals itself
            raise FathomError(f"{name!r} differs between {files[0]} and {file}; expected copies: shards of one model")
    return whole


def _tokenizer(folder: Path, vocab_size: int) -> Tokenizer | None:
    """From the folder, or the one above, where LLaMA 1 and 2 have it for all their sizes."""
    for file in (folder / TOKENIZER, folder.resolve().parent / TOKENIZER):
        if file.is_file():
            return read_model_file(file, vocab_size)
    return None


def write_meta(folder: Path, config: ModelConfig, state: Mapping[str, Tensor], tokenizer: Tokenizer | None) -> None:
    """One shard, params.json and tokenizer.model in a new folder: Meta's code builds the same model from them.

    FathomError: the format cannot hold this model or tokenizer, or the disk refuses.
    """
    params: dict[str, Any] = FAMILY.write("meta", config)
    tensors = {name: _own(tensor) for name, tensor in from_ours(config, state, "meta").items()}
    if config.tie_embeddings:  # Meta's code asks for both; torch.save writes their numbers once
        tensors[UNEMBED] = tensors[EMBED]
    files = {PARAMS_FILE: params}
    kind = "F16" if tensors[EMBED].dtype == torch.float16 else ""
    if context_length(Values(params, PARAMS_FILE), kind)[0] != config.context_length:
        files[OURS] = {CONTEXT: config.context_length}
    vocabulary = None if tokenizer is None else to_model_file(tokenizer)
    with new_folder(folder) as partly:
        for name, values in files.items():
            (partly / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        if vocabulary is not None:
            (partly / TOKENIZER).write_bytes(vocabulary)
        try:
            with (partly / file_name(0)).open("wb") as file:
                torch.save(tensors, file)
        except (OSError, RuntimeError) as error:  # torch's own writer says RuntimeError where a disk is full
            raise FathomError(f"{folder} could not be written ({str(error)[:80]}); nothing was changed there") from None
        for written in partly.iterdir():
            sync(written)


def _own(tensor: Tensor) -> Tensor:
    """The tensor with memory of its own: of a part, torch.save would write the whole that it was cut from."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
