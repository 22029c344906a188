"""A safetensors file: its header checked, its tensors mapped. Not safe_open: it holds all pages that were ever read.

Eight bytes with the length of a header, the header (JSON: name -> dtype, shape, data_offsets), then the numbers without
a gap (huggingface.co/docs/safetensors). Errors name the tensor and the byte; each tensor has a map of its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
# narrower types come later in a file, and of equals the name decides
ORDER = ("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "C64",
         "F64", "I64", "U64")  # fmt: skip
NAMES = {theirs: ours for ours, theirs in DTYPES.items()} | {"uint16": "U16", "uint64": "U64", "complex64": "C64"}
MOST_DIMENSIONS, LONGEST_NAME = 8, 300  # far more than a weight of a model has


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Tensors of any dtype as safetensors. Write inside `atomic_write` where `path` must never be half-written."""
    TensorFile(tensors).write(path)


class TensorFile:
    """A file to be written, one tensor after another: the library itself would hold all of them as bytes first.

    whole: what makes a tensor whole where processes hold parts of it. It is called once for each, in the order of the
    file, by the process that writes and by those that `skip`.
    """

    def __init__(self, tensors: Mapping[str, Tensor], whole: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        self.kinds = {name: NAMES[str(x.dtype).removeprefix("torch.")] for name, x in tensors.items()}
        names = sorted(tensors, key=lambda name: (-ORDER.index(self.kinds[name]), name))  # as the library orders them
        self.shapes = {name: tuple(tensors[name].shape) for name in names}
        self.left = (whole(tensors[name].detach()) for name in names)

    def write(self, path: Path) -> None:
        """FathomError where that cannot be; the tensors have then been made whole all the same."""
        try:
            if path.is_file():
                path.unlink()  # and not cut short: the tensors may be maps of it
            with path.open("wb") as file:
                file.write(self.header())
                for x in self.left:
                    file.write(x.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)
        except OSError as error:
            raise FathomError(f"{path} cannot be written: {error}") from error
        finally:
            self.skip()

    def skip(self) -> None:
        """Make all tensors whole that are left, and write none."""
        for _ in self.left:
            pass

    def header(self) -> bytes:
        """The length of the list of tensors, and the list, with spaces up to a multiple of 8 bytes."""
        entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        start = 0
        for name, shape in self.shapes.items():
            kind = self.kinds[name]
            end = start + math.prod(shape) * SIZES[kind]
            entries[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
            start = end
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text


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
