"""A whole model in one GGUF file, read and written: weights, config, tokenizer and metadata.

Floats are mapped into memory, quantised tensors are unpacked one by one as they are read. Files are laid out as
llama.cpp's converter writes them, so that llama.cpp runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fathom.errors import FathomError
from fathom.families.gguf_limits import differs
from fathom.families.registry import from_gguf, in_gguf, to_gguf
from fathom.families.shapes import weight_shapes
from fathom.formats import gguf
from fathom.formats.convert import makers, stored_shapes
from fathom.formats.ggml_blocks import NumberType, packed, unpacked
from fathom.formats.ggml_kept import FORMATS, fields
from fathom.formats.gguf_keys import Followed, refuse_unread
from fathom.formats.gguf_mix import KINDS, types
from fathom.formats.opened import Opened, Stored, tensor_at
from fathom.json_file import short
from fathom.model.config import ModelConfig
from fathom.quant.scheme import Packed
from fathom.tokenizer import gguf as vocabulary
from fathom.tokenizer.protocol import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor


FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 32: "BF16",
}  # fmt: skip
QUANTIZATION_VERSION = 2  # of ggml's block layouts
LONGEST = 1000  # characters; longer values are no names and no licences


def open_gguf(path: Path) -> Opened:
    """The model in a GGUF file. FathomError where the file is damaged or its model belongs to no family."""
    header = gguf.read_header(path)
    tensors = {name: stored(path, info) for name, info in header.tensors.items()}
    if str(header.metadata.get("split.count", 1)) not in "01":
        raise FathomError(f"{path} is one of several files; join them first: llama-gguf-split --merge")
    if (kind := header.metadata.get("general.type", "model")) != "model":
        raise FathomError(f"{path}: general.type is {short(kind)}; expected 'model'")
    metadata = Followed(header.metadata)
    family, config = from_gguf(metadata, tensors, str(path))
    refuse_unread(metadata, config.resolved(), str(path))
    weights = family.weights("gguf", tensors, config.n_layer)
    note = differs(str(metadata["general.architecture"]), config.resolved())
    about = general(header.metadata) | ({"note": note} if note else {})
    tokenizer = partial(read_tokenizer, path, header.metadata)
    return Opened(path, f"GGUF v{header.version}", config, family, "gguf", weights, tokenizer, about)


def stored(path: Path, info: gguf.TensorInfo) -> Stored:
    """A tensor of the file, to be read later."""
    form = FORMATS.get(info.kind.name) if len(info.shape) == 2 else None
    packed = {} if form is None else {form: partial(codes, path, info)}
    kind, nbytes, numbers, some = info.kind.name, info.nbytes, partial(read, path, info), partial(rows, path, info)
    return Stored(info.shape, kind, nbytes, numbers, some, packed, items=partial(item, path, info))


def item(path: Path, info: gguf.TensorInfo, i: int) -> Stored:
    """A part along the first axis, such as one expert's matrix: a row is a whole number of blocks."""
    part = replace(info, shape=info.shape[1:])
    return stored(path, replace(part, offset=info.offset + i * part.nbytes))


def read(path: Path, info: gguf.TensorInfo) -> Tensor:
    """A tensor's numbers: floats mapped, copy on write, the others as fp32."""
    if info.kind.unpack is None:
        return tensor_at(path, info.offset, info.shape, info.kind.dtype)
    return rows(path, info, 0, info.shape[0])


def rows(path: Path, info: gguf.TensorInfo, start: int, stop: int) -> Tensor:
    """A range of its rows; a row is a whole number of blocks."""
    if info.kind.unpack is None:
        return read(path, info)[start:stop]
    row = info.nbytes // max(info.shape[0], 1)
    data = tensor_at(path, info.offset + start * row, ((stop - start) * row,), "uint8")
    return unpacked(data, info.kind).view(stop - start, *info.shape[1:])


def codes(path: Path, info: gguf.TensorInfo) -> Packed | None:
    """Its codes and scales; None where they are not quite those of the format."""
    return fields(tensor_at(path, info.offset, (info.nbytes,), "uint8"), info.kind, info.shape[0])


def read_tokenizer(path: Path, metadata: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer in a file; None where it has none."""
    try:
        return vocabulary.from_gguf(metadata)
    except FathomError as error:
        raise FathomError(f"{path}: {error}") from None


def general(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Name, author, licence, quantisation and the like, as far as they are short."""
    values = {}
    for key, value in metadata.items():
        name = key.removeprefix("general.")
        short = isinstance(value, str | int) and len(str(value)) <= LONGEST
        if name != key and short and name not in ("architecture", "alignment"):
            values[name] = FILE_TYPES.get(value, value) if name == "file_type" else value
    return values


def write_gguf(
    path: Path, config: ModelConfig, state: Mapping[str, Tensor], tokenizer: Tokenizer | None, kind: str = "F32"
) -> None:
    """The model as a GGUF file that llama.cpp runs. kind: one of KINDS.

    As in its converter, vectors and learned positions stay fp32, and matrices whose rows do not fill blocks are fp16.
    """
    if kind not in KINDS:
        raise FathomError(f"kind is {kind!r}; choose one of {', '.join(KINDS)}")
    family, _ = in_gguf(config)
    places = family.places(config, "gguf")
    tensors, sizes = makers(places, state), stored_shapes(weight_shapes(config), places)
    for name, tensor in family.columns["gguf"].extra_tensors(config.resolved()).items():
        tensors[name], sizes[name] = tensor.clone, tuple(tensor.shape)
    file_type = next(id for id, name in FILE_TYPES.items() if name == kind)
    metadata = to_gguf(config) | {
        "general.type": "model",
        "general.name": path.stem,
        "general.file_type": file_type,
        "general.quantization_version": QUANTIZATION_VERSION,
    }
    if tokenizer is None:
        metadata["tokenizer.ggml.model"] = "no_vocab"  # llama.cpp then takes ids alone
    else:
        metadata |= vocabulary.to_gguf(tokenizer, config.vocab_size)
    kinds = types(kind, metadata, tensors)
    chosen = {name: kinds.of(name, sizes[name]) for name in tensors}
    gguf.write(path, metadata, {name: outgoing(make, chosen[name], sizes[name]) for name, make in tensors.items()})


def outgoing(make: Callable[[], Tensor], kind: NumberType, shape: tuple[int, ...]) -> gguf.Outgoing:
    return gguf.Outgoing(shape, kind, lambda: packed(make(), kind))
