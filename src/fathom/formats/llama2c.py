"""Models of llama2.c: a .bin file of sizes and unnamed tensors, with its tokenizer in a file beside it.

A header of seven sizes, then tensors of known shape, each kind for all layers (export.py of karpathy/llama2.c). Version
0 also stores the tables of rope, 1 aligns its header, 2 has matrices in groups of int8 with an fp32 scale each. Here
tensors have Meta's names, since rope turns neighbouring channels together as it does there.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fathom.anatomy.cost import matrices
from fathom.errors import FathomError
from fathom.families.family import USUAL
from fathom.families.llama import FAMILY
from fathom.families.names import join
from fathom.files import replacing
from fathom.formats.convert import from_ours
from fathom.formats.opened import Opened, Stored, tensor_at
from fathom.model.config import ModelConfig, ResolvedConfig, Rotary
from fathom.tokenizer.llama2c import is_tokenizer_bin, read_tokenizer_bin, to_tokenizer_bin
from fathom.tokenizer.load import read_model_file
from fathom.tokenizer.protocol import Tokenizer

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from fathom.lazy import torch


MAGIC, ALIGNED = 0x616B3432, 256  # of versions 1 and 2: "ak42", and the bytes of the header
SIZES = struct.Struct("<7i")  # d_model, d_ff, n_layer, n_head, n_kv_head, vocab_size, context_length
GROUP = 64  # of version 2: how many numbers share a scale, halved until it divides every row
ATTENTION = ["blocks.N.attn.q", "blocks.N.attn.k", "blocks.N.attn.v", "blocks.N.attn.out"]
MLP = ["blocks.N.mlp.gate", "blocks.N.mlp.down", "blocks.N.mlp.up"]
ROPE = "rope"  # cosines, then sines of every position, which follow from the config
FIRST = ["embed", "blocks.N.attn_norm", *ATTENTION, "blocks.N.mlp_norm", *MLP, "final_norm", ROPE, "unembed"]
LATER = ["blocks.N.attn_norm", "blocks.N.mlp_norm", "final_norm", "embed", *ATTENTION, *MLP, "unembed"]
ORDER = {0: FIRST, 1: LATER, 2: LATER}


@dataclass(frozen=True)
class Header:
    """The header; `group` is 0 but in version 2."""

    version: int
    config: ResolvedConfig
    group: int = 0

    @property
    def nbytes(self) -> int:
        return ALIGNED if self.version else SIZES.size


@dataclass(frozen=True)
class Section:
    """Consecutive tensors of one shape: one for each layer, or a single one. `group`: numbers to a scale; 0: fp32."""

    part: str
    shape: tuple[int, ...]
    copies: int
    group: int

    @property
    def nbytes(self) -> int:
        """Of each copy."""
        count = math.prod(self.shape)
        return count + 4 * (count // self.group) if self.group else 4 * count

    def names(self) -> list[str]:
        """Meta's name of each copy; none for tables, which no model needs."""
        if self.part == ROPE:
            return []
        name = FAMILY.columns["meta"].tensors[self.part].name
        return [join(name, str(layer), ".weight") for layer in range(self.copies)]


def sections(header: Header) -> list[Section]:
    """Everything after the header, in order."""
    z = header.config
    shapes: dict[str, tuple[int, ...]] = {f"blocks.N.{name}": (b, a) for name, (a, b) in matrices(z).items()}
    shapes |= {"embed": (z.vocab_size, z.d_model), ROPE: (z.context_length, z.head_dim // 2)}
    shapes |= {} if z.tie_embeddings else {"unembed": (z.vocab_size, z.d_model)}
    shapes |= dict.fromkeys(("blocks.N.attn_norm", "blocks.N.mlp_norm", "final_norm"), (z.d_model,))
    copies = {part: z.n_layer if ".N." in part else 2 if part == ROPE else 1 for part in shapes}
    return [
        Section(part, shapes[part], copies[part], header.group if len(shapes[part]) == 2 else 0)
        for part in ORDER[header.version]
        if part in shapes
    ]


def places(header: Header) -> Iterator[tuple[str, Section, int]]:
    """The name of each tensor, its section and its first byte."""
    start = header.nbytes
    for section in sections(header):
        for copy, name in enumerate(section.names()):
            yield name, section, start + copy * section.nbytes
        start += section.copies * section.nbytes


def read_header(path: Path) -> Header:
    """The header of a file, whose size must be exactly what it describes."""
    try:
        with path.open("rb") as file:
            head, size = file.read(ALIGNED), path.stat().st_size
    except OSError as problem:
        raise FathomError(f"{path} cannot be read ({problem.strerror or problem}); expected a .bin file") from None
    header = _parse(head, path)
    if uneven := [s.part for s in sections(header) if s.group and math.prod(s.shape) % s.group]:
        raise FathomError(f"{path}: groups of {header.group} do not divide {uneven[0]}; the header is damaged")
    expected = header.nbytes + sum(section.copies * section.nbytes for section in sections(header))
    if expected != size:
        raise FathomError(
            f"{path} has {size} bytes; its header (version {header.version}) describes {expected}; fetch the file again"
        )
    return header


def has_magic(head: bytes) -> bool:
    return head[:4] == struct.pack("<I", MAGIC)


def _parse(head: bytes, path: Path) -> Header:
    at = 8 if has_magic(head) else 0
    if len(head) < (ALIGNED if at else SIZES.size):
        raise FathomError(f"{path}: llama2.c file, cut off at byte {len(head)}, in its header; fetch it again")
    version = struct.unpack_from("<i", head, 4)[0] if at else 0
    if version not in ORDER or (at and not version):
        raise FathomError(f"{path} is version {version} of llama2.c's format; supported are 0, 1, 2")
    vocab_size = SIZES.unpack_from(head, at)[5]
    shared, group = struct.unpack_from("<Bi", head, at + SIZES.size) if at else (vocab_size > 0, 0)
    if shared not in (0, 1) or (version == 2 and group < 1) or (at and vocab_size < 0):
        raise FathomError(f"{path}: the header has vocab_size={vocab_size}, shared={shared}, group={group}; damaged")
    try:
        config = _config(SIZES.unpack_from(head, at), bool(shared)).resolved()
    except FathomError as problem:
        raise FathomError(f"{path}: the header has {problem}") from None
    return Header(version, config, group if version == 2 else 0)


def _config(sizes: tuple[int, ...], shared: bool) -> ModelConfig:
    """The LLaMA that this format holds: no biases, rope_theta 10,000, norm_eps 1e-5."""
    d_model, d_ff, n_layer, n_head, n_kv_head, vocab_size, context_length = sizes
    return ModelConfig(
        vocab_size=abs(vocab_size),  # negative in version 0: with an unembedding of its own
        context_length=context_length,
        d_model=d_model,
        n_layer=n_layer,
        n_head=n_head,
        n_kv_head=n_kv_head,
        d_ff=d_ff,
        tie_embeddings=shared,
        **FAMILY.choices,
    )


FIXED = {  # by the runner, without a field in the header
    **FAMILY.choices, **USUAL, "bias": (), "rope": Rotary(), "norm_eps": 1e-5,
}  # fmt: skip


def rope_obstacle(rope: Rotary) -> tuple[str, object, object]:
    """The field of this rotation that is not the format's, its value, and the format's."""
    given = vars(rope) | {"scaling": rope.scaling and rope.scaling.kind}
    name = next(name for name, value in given.items() if value != vars(Rotary())[name])
    return f"rope_{name}", given[name], vars(Rotary())[name]


def header_for(config: ModelConfig, version: int) -> Header:
    """The header of a file to be written. FathomError names what the format has no place for."""
    if version not in ORDER:
        raise FathomError(f"version is {version}; llama2.c's format has {', '.join(map(str, ORDER))}")
    z = config.resolved()
    for name, value in {**FIXED, "head_dim": z.d_model / z.n_head}.items():
        if getattr(z, name) != value:
            actual, only = (",".join(x) or "off" if isinstance(x, tuple) else x for x in (getattr(z, name), value))
            if name == "rope":
                name, actual, only = rope_obstacle(z.rope)
            raise FathomError(f"{name}={actual} has no place in llama2.c's files, only {only}; choose another format")
    group = GROUP
    while version == 2 and (z.d_model % group or z.d_ff % group):  # the runner reads whole groups of a row
        group //= 2
    return Header(version, z, group if version == 2 else 0)


def pack(header: Header) -> bytes:
    """The bytes before the first tensor."""
    z = header.config
    vocab_size = z.vocab_size if header.version or z.tie_embeddings else -z.vocab_size
    sizes = SIZES.pack(z.d_model, z.d_ff, z.n_layer, z.n_head, z.n_kv_head, vocab_size, z.context_length)
    if not header.version:
        return sizes
    flags = struct.pack("<B", z.tie_embeddings) + (struct.pack("<i", header.group) if header.group else b"")
    return (struct.pack("<Ii", MAGIC, header.version) + sizes + flags).ljust(ALIGNED, b"\0")


def quantize(x: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """int8 numbers (n / group, group) and a scale for each row: the largest becomes 127 (quantize_q80, export.py)."""
    rows = x.float().reshape(-1, group)
    scale = rows.abs().amax(dim=1) / 127.0
    return torch.where(scale[:, None] > 0, rows / scale[:, None], 0.0).round().to(torch.int8), scale


def dequantize(q: Tensor, scale: Tensor) -> Tensor:
    """The numbers (n / group, group) that int8 and scale stand for."""
    return q.float().mul_(scale[:, None])


def rope_tables(config: ResolvedConfig) -> list[Tensor]:
    """Cosines and sines (t, c/2) of every position, which version 0 stores and later runners skip."""
    c = config.head_dim
    frequency = 1.0 / (config.rope.theta ** (torch.arange(0, c, 2).float() / c))
    angle = torch.outer(torch.arange(config.context_length).float(), frequency)
    return [angle.cos(), angle.sin()]


TOKENIZER, SENTENCEPIECE = "tokenizer.bin", "tokenizer.model"
LARGEST_TOKENIZER = 1 << 26  # bytes


def is_llama2c(path: Path) -> bool:
    """Whether a file has this format: by its magic, or by sizes that match the file exactly."""
    try:
        with path.open("rb") as file:
            if has_magic(file.read(4)):
                return True
        return bool(read_header(path))
    except (FathomError, OSError):
        return False


def open_llama2c(path: Path) -> Opened:
    """The model in a .bin file. FathomError where its size is not what its header describes."""
    header = read_header(path)
    tensors = {name: _stored(path, section, start) for name, section, start in places(header)}
    metadata = {"version": header.version} | ({"group_size": header.group} if header.group else {})
    format = f"llama2.c version {header.version}{', int8' * bool(header.group)}"
    tokenizer = partial(tokenizer_beside, path, header.config.vocab_size)
    return Opened(path, format, header.config, FAMILY, "meta", tensors, tokenizer, metadata)


def _stored(path: Path, section: Section, start: int) -> Stored:
    def plain() -> Tensor:
        return tensor_at(path, start, section.shape, "float32")

    def grouped(first: int, last: int) -> Tensor:
        row = section.shape[1] // section.group  # groups
        q = tensor_at(path, start + first * section.shape[1], ((last - first) * row, section.group), "int8")
        scales = start + section.shape[0] * section.shape[1] + first * row * 4
        return dequantize(q, tensor_at(path, scales, (len(q),), "float32")).view(-1, section.shape[1])

    if not section.group:
        return Stored(section.shape, "F32", section.nbytes, plain)
    kind, everything = f"Q8 group {section.group}", partial(grouped, 0, section.shape[0])
    return Stored(section.shape, kind, section.nbytes, everything, grouped)


def tokenizer_beside(path: Path, vocab_size: int) -> Tokenizer | None:
    """tokenizer.bin, else any file beside the model that is a tokenizer.bin of this size, else tokenizer.model."""
    if (path.parent / TOKENIZER).is_file():
        return read_tokenizer_bin(path.parent / TOKENIZER, vocab_size)
    others = [file for file in sorted(path.parent.iterdir()) if file != path and file.is_file()]
    others = [file for file in others if file.stat().st_size <= LARGEST_TOKENIZER]
    matches = {file.read_bytes(): file for file in others if is_tokenizer_bin(file, vocab_size)}  # copies count once
    if len(matches) > 1:
        names = ", ".join(sorted(file.name for file in matches.values()))
        raise FathomError(f"{path.parent} holds {len(matches)} tokenizers of this size: {names}; name one {TOKENIZER}")
    for file in matches.values():
        return read_tokenizer_bin(file, vocab_size)
    beside = path.parent / SENTENCEPIECE
    return read_model_file(beside, vocab_size) if beside.is_file() else None


def write_llama2c(
    path: Path, config: ModelConfig, state: Mapping[str, Tensor], tokenizer: Tokenizer | None, version: int = 0
) -> None:
    """The model as `path`, its tokenizer as tokenizer.bin beside it. FathomError names what the format cannot hold."""
    header = header_for(config, version)
    stored = from_ours(config, state, "meta")
    content = None if tokenizer is None else to_tokenizer_bin(tokenizer, config.vocab_size)
    if content is not None:
        _refuse_another(path.parent / TOKENIZER, content)
    with replacing(path) as file:
        file.write(pack(header))
        for section in sections(header):
            tables = rope_tables(header.config) if section.part == ROPE else []
            for tensor in tables or (stored[name] for name in section.names()):
                for part in _numbers(tensor, section, path):
                    file.write(part)
    if content is not None:  # after the model, so that nothing is left where that fails
        with replacing(path.parent / TOKENIZER) as file:
            file.write(content)


def _numbers(tensor: Tensor, section: Section, path: Path) -> Iterator[bytes]:
    """The bytes of a tensor; int8 is followed by its scales."""
    x = tensor.detach().cpu().float()
    if section.group and not bool(x.isfinite().all()):
        raise FathomError(f"{path}: {section.part} has numbers that are not finite; int8 cannot hold them")
    for part in quantize(x, section.group) if section.group else (x,):
        yield part.contiguous().numpy().tobytes()


def _refuse_another(path: Path, content: bytes) -> None:
    if path.is_file() and path.read_bytes() != content:
        raise FathomError(f"{path} exists and is another tokenizer; write the model into a folder of its own")
