"""Meta's own files, as LLaMA 1 to 3.2 were released: params.json, consolidated.NN.pth, tokenizer.model.

Tensor names are the column `meta` of `names`. The shards are used as they lie, and joined tensor by tensor. Does not
know how a .pth is read, how a model was cut, or what a parameter means.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fathom.errors import FathomError, near
from fathom.files import new_folder, sync
from fathom.formats.convert import WORKED_OUT, from_ours
from fathom.formats.meta_shards import file_name, join_shards, name_of
from fathom.formats.names import split
from fathom.formats.opened import Opened, Stored
from fathom.formats.torch_file import open_pickle
from fathom.json_file import field, read_object, short
from fathom.model.config import ModelConfig, RopeScaling
from fathom.tokenizer.protocol import Tokenizer

# params.json and a config: what is not in it comes from the shapes of the tensors and from what was released.
#
# Fields are those of `ModelArgs` in Meta's `llama` and `llama-models`. Meta's code makes the width of the MLP from
# two: d_ff = multiple_of * ceil(floor(ffn_dim_multiplier * floor(8/3 dim)) / multiple_of) The context length is in
# none of them. Does not know files.

FIELDS = (
    "dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "ffn_dim_multiplier", "norm_eps",
    "rope_theta", "use_scaled_rope", "rope_scaling_factor", "max_seq_len", "max_batch_size",
)  # fmt: skip
CONTEXT = "max_seq_len"  # ModelArgs has it, but who runs Meta's code says it there: no released params.json does
ORIGINAL = 8192  # the context of Llama 3, from which 3.1 was stretched
FACTOR, FACTOR_TIED = 8.0, 32.0  # of Llama 3.1, and of 3.2, which ties its embeddings

Values = Mapping[str, Any]
Tensors = Mapping[str, Stored]


def width(values: Values, where: str) -> int:
    """`dim`, once every field is seen to be one that is known here."""
    if unknown := values.keys() - set(FIELDS):
        found = min(unknown)
        raise FathomError(
            f"{where}: unknown field {short(found)}{near(found[:40], FIELDS)}; known: {', '.join(FIELDS)}"
        )
    return _count(values, "dim", where)


def config_of(values: Values, tensors: Tensors, where: str) -> tuple[ModelConfig, str]:
    """The config of the model that has these (whole) tensors, and in words where its context length is from."""
    d_model, tied = width(values, where), name_of("unembed") not in tensors
    _require_layers(values, tensors, where)
    rows = {part: _rows(tensors, part, d_model, where) for part in ("embed", "blocks.N.mlp.up")}
    context, why = context_length(values, tensors[name_of("embed")].kind, where)
    config = ModelConfig(
        vocab_size=_vocab_size(values, rows["embed"], where),
        context_length=context,
        d_model=d_model,
        n_layer=_count(values, "n_layers", where),
        n_head=_count(values, "n_heads", where),
        n_kv_head=None if values.get("n_kv_heads") is None else _count(values, "n_kv_heads", where),
        d_ff=rows["blocks.N.mlp.up"],
        position="rope",
        norm="rms",
        mlp="swiglu",
        tie_embeddings=tied,
        norm_eps=field(values, "norm_eps", float, where, 1e-5),
        rope_theta=field(values, "rope_theta", float, where, 10_000.0),
        rope_scaling=_scaling(values, tied, where),
    )
    try:
        config.resolved()
    except FathomError as problem:
        raise FathomError(f"{where}: {problem}") from None
    return config, why


def _count(values: Values, name: str, where: str) -> int:
    number = field(values, name, int, where)
    if number < 1:
        raise FathomError(f"{where}: {name} is {number}; expected 1 or more")
    return number


def _rows(tensors: Tensors, part: str, d_model: int, where: str) -> int:
    """How many rows of `d_model` numbers the weight of a part has."""
    shape = tensors[name_of(part)].shape if name_of(part) in tensors else ()
    if len(shape) != 2 or shape[1] != d_model:
        raise FathomError(f"{where}: dim is {d_model}, but {name_of(part)!r} is {shape or 'missing'}; not of one model")
    return shape[0]


def _vocab_size(values: Values, rows: int, where: str) -> int:
    """As many as the embedding has rows; in LLaMA 2 the field is -1, for the tokenizer knows."""
    said = field(values, "vocab_size", int, where, -1)
    if said not in (-1, rows):
        raise FathomError(f"{where}: vocab_size is {said}, but {name_of('embed')!r} has {rows} rows; not of one model")
    return rows


def _require_layers(values: Values, tensors: Tensors, where: str) -> None:
    said, found = _count(values, "n_layers", where), len({split(name)[1] for name in tensors} - {""})
    if said != found:
        raise FathomError(f"{where}: n_layers is {said}, but the shards have {found} layers; not of one model")


def context_length(values: Values, kind: str, where: str) -> tuple[int, str]:
    """How many tokens the model was trained on at once, by what sets the released families apart, and that in words.

    kind: how the numbers are stored, such as F16.
    """
    theta = field(values, "rope_theta", float, where, 10_000.0)
    if values.get(CONTEXT) is not None:
        return _count(values, CONTEXT, where), f"as {CONTEXT} says"
    if field(values, "use_scaled_rope", bool, where, False):
        return 131072, "as of Llama 3.1 and 3.2 (use_scaled_rope)"
    if theta == 500_000:
        return ORIGINAL, "as of Llama 3 (rope_theta 500000)"
    if theta == 1_000_000:
        return 16384, "as of Code Llama (rope_theta 1000000)"
    if kind == "F16" and field(values, "norm_eps", float, where, 1e-5) == 1e-6:
        return 2048, "as of LLaMA 1 (norm_eps 1e-6, F16)"
    return 4096, "as of LLaMA 2"


def _scaling(values: Values, tied: bool, where: str) -> RopeScaling | None:
    if not field(values, "use_scaled_rope", bool, where, False):
        return None
    factor = field(values, "rope_scaling_factor", float, where, FACTOR_TIED if tied else FACTOR)
    if factor < 1:
        raise FathomError(f"{where}: rope_scaling_factor is {factor}; expected 1 or more")
    return RopeScaling(kind="llama3", factor=factor, original_context_length=ORIGINAL)


def params_of(config: ModelConfig) -> dict[str, Any]:
    """The fields from which Meta's code builds this model. FathomError: it has something that no field says."""
    config = config.resolved()
    scaling = config.rope_scaling
    if config.bias or config.qk_norm or config.head_dim * config.n_head != config.d_model or config.n_layer < 1:
        raise FathomError(
            "Meta's format has no biases, qk_norm, other head_dim than d_model / n_head or models without layers"
        )
    if scaling is not None and scaling != RopeScaling(
        kind="llama3", factor=scaling.factor, original_context_length=ORIGINAL
    ):
        raise FathomError(f"Meta's format has no such {scaling}; it has llama3 from a context of {ORIGINAL} alone")
    params: dict[str, Any] = {"dim": config.d_model, "n_layers": config.n_layer, "n_heads": config.n_head}
    params |= {"n_kv_heads": config.n_kv_head} if config.n_kv_head != config.n_head else {}
    params |= {"vocab_size": config.vocab_size, "multiple_of": config.d_ff}  # the next multiple is d_ff itself
    if int(8 * config.d_model / 3) > config.d_ff:
        params["ffn_dim_multiplier"] = (config.d_ff + 0.5) / int(8 * config.d_model / 3)  # safe from rounding down
    params["norm_eps"] = config.norm_eps
    params |= {"rope_theta": config.rope_theta} if config.rope_theta != 10_000 else {}  # LLaMA 2 has no such field
    if scaling is not None:
        params |= {"use_scaled_rope": True, "rope_scaling_factor": scaling.factor}
    return params


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
