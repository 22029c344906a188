"""Models of llama2.c: a .bin file without names or numbers besides its sizes, and its tokenizer in a file beside it.

Tensors have the names of Meta's files: rope turns neighbouring channels together, as it does there. What lies where is
in `llama2c_layout`. Does not know what the tensors are for.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fathom.atomic import replacing
from fathom.errors import FathomError
from fathom.formats import llama2c_layout as layout
from fathom.formats.convert import from_ours
from fathom.formats.mapped import tensor_at
from fathom.formats.opened import Opened, Stored
from fathom.model.config import ModelConfig
from fathom.tokenizer.protocol import Tokenizer

TOKENIZER, SENTENCEPIECE = "tokenizer.bin", "tokenizer.model"
LARGEST_TOKENIZER = 1 << 26  # bytes; nothing larger is looked into


def is_llama2c(path: Path) -> bool:
    """Whether the content of a file is this format: by its magic, or by sizes that fit the file exactly."""
    try:
        with path.open("rb") as file:
            if layout.has_magic(file.read(4)):
                return True
        return bool(layout.read_header(path))
    except (FathomError, OSError):
        return False


def open_llama2c(path: Path) -> Opened:
    """The model in a .bin file. FathomError where its size is not what its header says."""
    header = layout.read_header(path)
    tensors = {name: _stored(path, section, start) for name, section, start in layout.places(header)}
    about = {"version": header.version} | ({"group_size": header.group} if header.group else {})
    name = f"llama2.c version {header.version}{', int8' * bool(header.group)}"
    vocab_size = header.config.vocab_size
    return Opened(path, name, header.config, "meta", tensors, lambda: tokenizer_beside(path, vocab_size), about)


def _stored(path: Path, section: layout.Section, start: int) -> Stored:
    def plain() -> Tensor:
        return tensor_at(path, start, section.shape, torch.float32)

    def grouped(first: int, last: int) -> Tensor:
        row = section.shape[1] // section.group  # groups
        q = tensor_at(path, start + first * section.shape[1], ((last - first) * row, section.group), torch.int8)
        scales = start + section.shape[0] * section.shape[1] + first * row * 4
        return layout.dequantize(q, tensor_at(path, scales, (len(q),), torch.float32)).view(-1, section.shape[1])

    if not section.group:
        return Stored(section.shape, "F32", section.nbytes, plain)
    kind, everything = f"Q8 group {section.group}", partial(grouped, 0, section.shape[0])
    return Stored(section.shape, kind, section.nbytes, everything, grouped)


def tokenizer_beside(path: Path, vocab_size: int) -> Tokenizer | None:
    """tokenizer.bin, else any file beside the model that is one of this size by its content, else tokenizer.model."""
    from fathom.tokenizer.llama2c import is_tokenizer_bin, read_tokenizer_bin
    from fathom.tokenizer.load import read_model_file

    if (path.parent / TOKENIZER).is_file():
        return read_tokenizer_bin(path.parent / TOKENIZER, vocab_size)
    others = [file for file in sorted(path.parent.iterdir()) if file != path and file.is_file()]
    others = [file for file in others if file.stat().st_size <= LARGEST_TOKENIZER]
    found = {file.read_bytes(): file for file in others if is_tokenizer_bin(file, vocab_size)}  # copies count once
    if len(found) > 1:
        names = ", ".join(sorted(file.name for file in found.values()))
        raise FathomError(f"{path.parent} holds {len(found)} tokenizers for this model: {names}; name one {TOKENIZER}")
    for file in found.values():
        return read_tokenizer_bin(file, vocab_size)
    beside = path.parent / SENTENCEPIECE
    return read_model_file(beside, vocab_size) if beside.is_file() else None


def write_llama2c(
    path: Path, config: ModelConfig, state: Mapping[str, Tensor], tokenizer: Tokenizer | None, version: int = 0
) -> None:
    """The model as `path` and its tokenizer as tokenizer.bin beside it. FathomError names what does not fit in."""
    from fathom.tokenizer.llama2c import to_tokenizer_bin

    header = layout.header_for(config, version)
    stored = from_ours(config, state, "meta")
    content = None if tokenizer is None else to_tokenizer_bin(tokenizer, config.vocab_size)
    if content is not None:
        _refuse_another(path.parent / TOKENIZER, content)
    with replacing(path) as file:
        file.write(layout.pack(header))
        for section in layout.sections(header):
            tables = layout.rope_tables(header.config) if section.part == layout.ROPE else []
            for tensor in tables or (stored[name] for name in section.names()):
                for part in _numbers(tensor, section, path):
                    file.write(part)
    if content is not None:  # after the model: where that did not fit, nothing is left beside it
        with replacing(path.parent / TOKENIZER) as file:
            file.write(content)


def _numbers(tensor: Tensor, section: layout.Section, path: Path) -> Iterator[bytes]:
    """The bytes of a tensor, in int8 followed by their scales where the section has groups."""
    x = tensor.detach().cpu().float()
    if section.group and not bool(x.isfinite().all()):
        raise FathomError(f"{path}: {section.part} has numbers that are not finite, which int8 cannot hold; mend them")
    for part in layout.quantize(x, section.group) if section.group else (x,):
        yield part.contiguous().numpy().tobytes()


def _refuse_another(path: Path, content: bytes) -> None:
    if path.is_file() and path.read_bytes() != content:
        raise FathomError(f"{path} is there already and another tokenizer; write the model into a folder of its own")
