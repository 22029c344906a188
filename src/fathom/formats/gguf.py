"""GGUF, one file with everything: named values, a list of tensors, and their numbers (ggml, docs/gguf.md).

    "GGUF" version tensor_count value_count | values: key type value | tensors: name dims type offset | numbers

All is little-endian; offsets count from the first numbers. Every count and length is checked against the size of the
file before anything is read or looped over.
"""

import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fathom.errors import FathomError
from fathom.files import replacing
from fathom.formats.ggml_blocks import IDS, NumberType, number_type
from fathom.tokenizer.protocol import utf8

MAGIC, VERSION, ALIGNMENT = b"GGUF", 3, 32
SCALARS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "|b1", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
BOOL, TEXT, LIST = 7, 8, 9
SCALAR_IDS = {np.dtype(code).str: id for id, code in SCALARS.items()}
MOST_VALUES, MOST_TENSORS, MOST_LISTED, LONGEST_NAME, MOST_AXES = 1 << 14, 1 << 16, 1 << 22, 1 << 10, 4
LONG_TEXT = 1 << 20  # bytes: longer values are no names or templates, and stay bytes
TEXT_BUDGET = (
    48 << 20
)  # bytes for all texts, up to three times as many in large files; LLaMA 3's vocabulary takes 40 MB


@dataclass(frozen=True)
class TensorInfo:
    """Where the numbers of one tensor are. `shape` is torch's: the file lists the last axis first."""

    name: str
    shape: tuple[int, ...]
    kind: NumberType
    offset: int  # from the start of the file

    @property
    def nbytes(self) -> int:
        return bytes_of(self.shape, self.kind)

    @property
    def end(self) -> int:
        return self.offset + self.nbytes


@dataclass(frozen=True)
class Header:
    """All of a GGUF file but its numbers. Lists of numbers are arrays, lists of texts are lists."""

    version: int
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]


def read_header(path: Path) -> Header:
    """The header, checked. FathomError with the place in the file where it is damaged."""
    try:
        with path.open("rb") as file:
            return Reader(path, file).header()
    except OSError as error:
        raise FathomError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None


class Reader:
    """A file that is read from front to back. `budget` is how much memory its texts may still take."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file, self.size = path, file, path.stat().st_size
        self.budget = TEXT_BUDGET + min(self.size // 2, 2 * TEXT_BUDGET)

    def header(self) -> Header:
        if self.take(4) != MAGIC:
            raise self.error("but it does not begin with GGUF")
        version = self.number("<u4")
        if version not in (2, 3):
            actual = "big-endian" if version and not version & 0xFFFF else f"version {version}"
            raise self.error(f"this is a {actual} GGUF file; expected little-endian version 2 or 3; convert it again")
        n_tensors = self.count("<u8", "tensors", 24, MOST_TENSORS)
        n_values = self.count("<u8", "values", 13, MOST_VALUES)
        metadata: dict[str, Any] = {}
        for _ in range(n_values):
            key, value = self.text("a key", LONGEST_NAME), self.value(self.number("<u4"))
            if key in metadata:
                raise self.error(f"there are two values of {key[:64]!r}")
            metadata[key] = value
        infos: dict[str, TensorInfo] = {}
        for _ in range(n_tensors):
            info = self.tensor()
            if info.name in infos:
                raise self.error(f"there are two tensors {info.name[:64]!r}")
            infos[info.name] = info
        return Header(version, metadata, self.placed(infos, alignment(self.path, metadata)))

    def error(self, what: str) -> FathomError:
        return FathomError(f"{self.path}: GGUF file, {what} (at byte {self.file.tell():,} of {self.size:,})")

    def take(self, length: int) -> bytes:
        data = self.file.read(length) if length <= self.size else b""  # read() would allocate any length
        if len(data) < length:
            raise self.error(f"cut off: {length:,} more bytes should follow; fetch it again")
        return data

    def number(self, code: str) -> Any:
        """One number as a Python value; of fp32 the shortest decimal that rounds to it, such as 1e-05."""
        value = np.frombuffer(self.take(np.dtype(code).itemsize), code)[0]
        return float(str(value)) if code == "<f4" else value.item()

    def count(self, code: str, what: str, least: int, most: int = sys.maxsize) -> int:
        """The number of items that follow, each of at least `least` bytes."""
        count, left = int(self.number(code)), self.size - self.file.tell()
        if count > most or count * least > left:
            raise self.error(f"cut off or damaged: it declares {count:,} {what} in {left:,} bytes; fetch it again")
        return count

    def text(self, what: str = "a text", longest: int | None = None) -> str:
        length = int.from_bytes(self.take(8), "little")
        if longest is not None and length > longest:
            raise self.error(f"{what} is {length:,} bytes long; expected up to {longest:,}")
        return self.decoded(self.take(length))

    def decoded(self, data: bytes) -> str:
        """The text of these bytes, within the budget: a character takes up to 4 bytes."""
        if 4 * len(data) > self.budget:
            raise self.error("its texts are longer than those of any vocabulary; the file is damaged")
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise self.error(f"a text is not UTF-8: {data[:32]!r}") from None
        self.budget -= sys.getsizeof(text) + 8
        return text

    def value(self, kind: int) -> Any:
        if kind == TEXT:
            data = self.take(self.count("<u8", "bytes of text", 1))
            return self.decoded(data) if len(data) <= LONG_TEXT else data
        if kind == LIST:
            return self.listed(self.number("<u4"))
        return self.number(self.code(kind))

    def listed(self, kind: int) -> Any:
        if kind == LIST:
            raise self.error("a list of lists; no key of this format has such a value")
        if kind == TEXT:
            return [self.text() for _ in range(self.count("<u8", "texts", 8, MOST_LISTED))]
        dtype = np.dtype(self.code(kind))
        data = self.take(self.count("<u8", "numbers", dtype.itemsize, MOST_LISTED) * dtype.itemsize)
        return np.frombuffer(data, np.uint8) != 0 if kind == BOOL else np.frombuffer(data, dtype)

    def code(self, kind: int) -> str:
        if kind not in SCALARS:
            raise self.error(f"a value of type {kind}; expected types 0 to 12")
        return SCALARS[kind]

    def tensor(self) -> TensorInfo:
        """The entry of one tensor; its offset still counts from the first numbers."""
        name, n_axes = self.text("the name of a tensor", LONGEST_NAME), self.number("<u4")
        if not 1 <= n_axes <= MOST_AXES:
            raise self.error(f"tensor {name[:64]!r} has {n_axes} axes; expected 1 to {MOST_AXES}")
        shape = tuple(self.number("<u8") for _ in range(n_axes))[::-1]
        try:
            kind = number_type(self.number("<u4"))
        except FathomError as error:
            raise self.error(f"tensor {name[:64]!r}: {error}") from None
        if min(shape) < 1 or shape[-1] % kind.size:
            raise self.error(f"tensor {name[:64]!r} is {shape}; {kind.name} has rows of a multiple of {kind.size}")
        return TensorInfo(name, shape, kind, self.number("<u8"))

    def placed(self, infos: Mapping[str, TensorInfo], step: int) -> dict[str, TensorInfo]:
        """The tensors with offsets from the start of the file: inside it, aligned, without overlap."""
        start = padded(self.file.tell(), step)
        placed = {name: replace(info, offset=start + info.offset) for name, info in infos.items()}
        for tensor in placed.values():
            if tensor.end > self.size:
                raise self.error(
                    f"cut off: tensor {tensor.name[:64]!r} {tensor.shape} ends at byte {tensor.end:,}; fetch it again"
                )
            if (tensor.offset - start) % step:
                raise self.error(f"tensor {tensor.name[:64]!r} is not aligned to {step} bytes")
        for one, other in pairwise(sorted(placed.values(), key=lambda tensor: tensor.offset)):
            if other.offset < one.end:
                raise self.error(f"tensors {one.name[:64]!r} and {other.name[:64]!r} overlap")
        return placed


def alignment(path: Path, metadata: Mapping[str, Any]) -> int:
    step = metadata.get("general.alignment", ALIGNMENT)
    if type(step) is not int or step < 8 or step & (step - 1):
        raise FathomError(f"{path}: general.alignment is {str(step)[:64]}; expected a power of two from 8")
    return step


def bytes_of(shape: tuple[int, ...], kind: NumberType) -> int:
    return prod(shape) // kind.size * kind.nbytes


def padded(size: int, step: int) -> int:
    return -(-size // step) * step


@dataclass(frozen=True)
class Outgoing:
    """A tensor to be written; `pieces` produces its bytes when its turn comes."""

    shape: tuple[int, ...]
    kind: NumberType
    pieces: Callable[[], Iterable[NDArray[Any]]]

    @property
    def nbytes(self) -> int:
        return bytes_of(self.shape, self.kind)


def write(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, Outgoing]) -> None:
    """A GGUF file of version 3, written atomically, tensor by tensor.

    A value's type follows from its Python or numpy type: int uint32, float fp32, list[int] int32, list[float] fp32.
    """
    with replacing(path) as file:
        file.write(MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(metadata)))
        for key, value in metadata.items():
            file.write(_text(key) + _value(value))
        offset = 0
        for name, tensor in tensors.items():
            file.write(_text(name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape[::-1]))
            file.write(struct.pack("<IQ", IDS[tensor.kind.name], offset))
            offset = padded(offset + tensor.nbytes, ALIGNMENT)
        for name, tensor in tensors.items():
            _pad(file)
            try:
                written = sum(file.write(piece.data) for piece in tensor.pieces())
            except FathomError as error:
                raise FathomError(f"tensor {name!r}: {error}") from None
            if written != tensor.nbytes:
                size = f"{tensor.shape} of {tensor.kind.name} is {tensor.nbytes:,}"
                raise FathomError(f"tensor {name!r}: it has {written:,} bytes; {size}")
        _pad(file)


def _pad(file: BinaryIO) -> None:
    file.write(bytes(padded(file.tell(), ALIGNMENT) - file.tell()))


def _text(text: str) -> bytes:
    data = utf8(text)
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    """Type and value."""
    if isinstance(value, str):
        return struct.pack("<I", TEXT) + _text(value)
    if isinstance(value, list) and (not value or isinstance(value[0], str)):  # an empty list: of merges
        return struct.pack("<IIQ", LIST, TEXT, len(value)) + b"".join(map(_text, value))
    numbers = np.asarray(value)
    if isinstance(value, int | float | list):  # Python's numbers take the narrower types that GGUF uses
        narrow = {"<i8": "<i4" if numbers.ndim else "<u4", "<f8": "<f4"}
        numbers = numbers.astype(narrow.get(numbers.dtype.str, numbers.dtype.str))
    head = (LIST, SCALAR_IDS[numbers.dtype.str], len(value)) if numbers.ndim else (SCALAR_IDS[numbers.dtype.str],)
    return struct.pack("<IIQ"[: len(head) + 1], *head) + numbers.tobytes()
