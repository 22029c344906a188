"""Meta's own files, as LLaMA 1 to 3.2 were released: params.json, consolidated.NN.pth, tokenizer.model.

Tensor names are the column `meta` of `names`. The shards are used as they lie, and joined tensor by tensor. Does not
know how a .pth is read, how a model was cut, or what a parameter means.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fathom.atomic import new_folder, sync
from fathom.errors import FathomError
from fathom.formats.convert import WORKED_OUT, from_ours
from fathom.formats.json_file import read_object
from fathom.formats.meta_params import CONTEXT, config_of, context_length, params_of, width
from fathom.formats.meta_shards import file_name, join_shards, name_of
from fathom.formats.opened import Opened, Stored
from fathom.formats.pickle import open_pickle
from fathom.model.config import ModelConfig
from fathom.tokenizer.protocol import Tokenizer

PARAMS, TOKENIZER = "params.json", "tokenizer.model"
OURS = "context.json"  # beside the others: the context length; Meta's code would refuse a field for it in params.json


def open_meta(path: Path) -> Opened:
    """The model in a folder of Meta's, or the one that a .pth file belongs to."""
    folder = path if path.is_dir() else path.parent
    values = read_object(folder / PARAMS)
    if (folder / OURS).is_file():
        values[CONTEXT] = read_object(folder / OURS).get(CONTEXT)
    d_model, files = width(values, str(folder / PARAMS)), _files(folder)
    if path.is_file() and path.name not in {file.name for file in files}:
        raise FathomError(
            f"{path} is none of the shards {files[0].name} to {files[-1].name} beside it; give the folder"
        )
    shards = {file.name: _opened(file) for file in files}
    try:
        tensors = join_shards(shards, d_model)
    except FathomError as problem:
        raise FathomError(f"{folder}: {problem}") from None
    config, why = config_of(values, tensors, str(folder / PARAMS))
    kind = f"Meta, {len(files)} shard{'s' * (len(files) > 1)}"
    about = {"params": values, "context_length": f"{config.context_length}, {why}"}
    return Opened(path, kind, config, "meta", tensors, partial(_tokenizer, folder, config.vocab_size), about)


def _files(folder: Path) -> list[Path]:
    """The shards in order, from 00 on without a gap."""
    files = sorted(folder.glob("consolidated.*.pth"))
    if not files:
        raise FathomError(f"{folder} has {PARAMS} and no {file_name(0)}; put the weights beside it")
    for number, file in enumerate(files):
        if file.name != file_name(number):
            raise FathomError(f"{folder} has {file.name} and no {file_name(number)}; put all shards of one model there")
    return files


def _opened(file: Path) -> dict[str, Stored]:
    """The tensors of a shard that a model needs; an unembedding that is the embedding itself is left out."""
    tensors = {name: stored for name, stored in open_pickle(file).items() if not WORKED_OUT.fullmatch(name)}
    embed, unembed = name_of("embed"), name_of("unembed")
    if unembed in tensors and tensors[unembed] is tensors.get(embed):
        del tensors[unembed]
    return tensors


def _tokenizer(folder: Path, vocab_size: int) -> Tokenizer | None:
    """From the folder, or the one above, where LLaMA 1 and 2 have it for all their sizes."""
    from fathom.tokenizer.load import read_model_file

    for file in (folder / TOKENIZER, folder.resolve().parent / TOKENIZER):
        if file.is_file():
            return read_model_file(file, vocab_size)
    return None


def write_meta(folder: Path, config: ModelConfig, state: Mapping[str, Tensor], tokenizer: Tokenizer | None) -> None:
    """One shard, params.json and tokenizer.model in a new folder: Meta's code builds the same model from them.

    FathomError: the format cannot say what this model or tokenizer is, or the disk refuses.
    """
    params = params_of(config)
    tensors = {name: _own(tensor) for name, tensor in from_ours(config, state, "meta").items()}
    if config.tie_embeddings:  # Meta's code asks for both; torch.save writes their numbers once
        tensors[name_of("unembed")] = tensors[name_of("embed")]
    files = {PARAMS: params}
    kind = "F16" if tensors[name_of("embed")].dtype == torch.float16 else ""
    if context_length(params, kind, PARAMS)[0] != config.context_length:
        files[OURS] = {CONTEXT: config.context_length}
    vocabulary = _model_file(tokenizer)
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


def _model_file(tokenizer: Tokenizer | None) -> bytes | None:
    if tokenizer is None:
        return None
    from fathom.tokenizer.load import to_model_file

    return to_model_file(tokenizer)


def _own(tensor: Tensor) -> Tensor:
    """The tensor with memory of its own: of a part, torch.save would write the whole that it was cut from."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
