"""A safetensors file: its header checked, its tensors mapped. Not safe_open: it holds all pages that were ever read.

Eight bytes with the length of a header, the header (JSON: name -> dtype, shape, data_offsets), then the numbers without
a gap (huggingface.co/docs/safetensors). Errors name the tensor and the byte; each tensor has a map of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from fathom.errors import FathomError
from fathom.formats.opened import DTYPES, FLOATS, FLOATS8, Stored, tensor_at
from fathom.json_file import LARGEST, LIMIT, parse_object, short

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from fathom.lazy import torch


SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2}
SIZES |= {"I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8}
MOST_DIMENSIONS, LONGEST_NAME = 8, 300  # far more than a weight of a model has


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Tensors of any dtype as safetensors. Write inside `atomic_write` where `path` must never be half-written."""
    from safetensors.torch import save_file  # imports torch

    try:
        path.touch()
        mode = path.stat().st_mode  # safetensors creates a new file that its owner alone may read
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
        path.chmod(mode)
    except (SafetensorError, OSError) as error:
        raise FathomError(f"{path} cannot be written: {error}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors, of any dtype, mapped into memory."""
    return {name: stored.read() for name, stored in open_safetensors(path, DTYPES).items()}


def open_safetensors(path: Path, dtypes: Mapping[str, str] = FLOATS | FLOATS8) -> dict[str, Stored]:
    """Every tensor by name. One of another dtype than these can be listed but not read; 8-bit floats become fp32."""
    header, start = read_header(path)
    size = path.stat().st_size - start
    spans = {name: _span(entry, f"{path}: tensor {name!r}") for name, entry in header.items()}
    _require_contiguous(spans, size, path)

    def stored(name: str) -> Stored:
        kind, shape, (begin, end) = header[name]["dtype"], tuple(header[name]["shape"]), spans[name]

        def read() -> torch.Tensor:
            if kind not in dtypes:
                raise FathomError(f"{path}: tensor {name!r} is {kind}; weights are read as {', '.join(dtypes)}")
            x = tensor_at(path, start + begin, shape, dtypes[kind])
            return x.float() if kind in FLOATS8 else x

        def rows(first: int, last: int) -> torch.Tensor:
            return tensor_at(path, start + begin, shape, dtypes[kind])[first:last].float()

        narrow = rows if kind in FLOATS8 and kind in dtypes and shape else None
        return Stored(shape, kind, end - begin, read, narrow, span=(path, start + begin))

    return {name: stored(name) for name in header}


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The entry of each tensor, and the byte at which the first one begins."""
    try:
        with path.open("rb") as file:
            prefix = file.read(8)
            length, size = int.from_bytes(prefix, "little"), path.stat().st_size
            if len(prefix) < 8 or length > size - 8:
                raise FathomError(f"{path}: safetensors file, cut off at byte {size:,}, in its header; fetch it again")
            if length > LIMIT:
                raise FathomError(f"{path} declares a header of {length} bytes; expected at most {LIMIT}")
            header = parse_object(file.read(length), f"{path}: the header")
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise FathomError(f"{path} cannot be read ({reason}); expected a safetensors file") from None
    header.pop("__metadata__", None)
    if longest := [name for name in header if len(name) > LONGEST_NAME]:
        raise FathomError(f"{path}: the header has a name of {len(longest[0])} characters, {short(longest[0])}")
    return header, 8 + length


def _span(entry: Any, where: str) -> tuple[int, int]:
    """The first and last byte of a tensor, checked against its dtype and shape."""
    entry = entry if isinstance(entry, dict) else {}
    kind, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(kind, str) or kind not in SIZES:
        raise FathomError(f"{where} has dtype {short(kind)}; expected one of {', '.join(SIZES)}")
    if not _are_counts(shape) or len(shape) > MOST_DIMENSIONS:
        raise FathomError(f"{where} has shape {short(shape)}; expected at most {MOST_DIMENSIONS} sizes")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise FathomError(f"{where} has data_offsets {short(offsets)}; expected its first and last byte")
    required = math.prod(shape) * SIZES[kind]
    if offsets[1] - offsets[0] != required:
        raise FathomError(
            f"{where} has {offsets[1] - offsets[0]} bytes; {kind} of shape {tuple(shape)} needs {required};"
            " the file is damaged: fetch it again"
        )
    return offsets[0], offsets[1]


def _are_counts(values: Any) -> bool:
    """Whether this is a list of sizes; a product of eight of them is a number that can still be printed."""
    return isinstance(values, list) and all(type(n) is int and 0 <= n <= LARGEST << 31 for n in values)


def _require_contiguous(spans: dict[str, tuple[int, int]], size: int, path: Path) -> None:
    """FathomError unless the tensors fill the file: no gap, no overlap, nothing behind."""
    required = max((end for _, end in spans.values()), default=0)
    if required > size:
        raise FathomError(
            f"{path}: safetensors file, cut off: {size:,} of {required:,} bytes of tensors are there; fetch it again"
        )
    inside = sorted((begin, end, name) for name, (begin, end) in spans.items())
    edges = [(0, 0, "the header"), *inside, (size, size, "the end of the file")]
    for (_, end, before), (begin, _, after) in pairwise(edges):
        if end != begin:
            what = "a gap" if begin > end else "an overlap"
            raise FathomError(
                f"{path}: {what} of {abs(begin - end)} bytes between {before!r} and {after!r}; expected every byte to"
                " belong to one tensor: fetch the file again"
            )
