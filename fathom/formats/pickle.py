"""What torch.save writes, read without running it: a zip with a pickle (`data.pkl`) and the numbers (`data/0`, ...).

The pickle says which tensor is which part of which storage; each is checked against its storage, and that against the
file, before anything is read. Does not know whose tensors they are.
"""

import math
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.formats.archive import Archive, open_archive
from fathom.formats.mapped import tensor_at
from fathom.formats.opened import Stored
from fathom.formats.pickle_machine import View, run

OLD = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"  # the number that begins what torch wrote before version 1.6
PICKLE_LIMIT = 1 << 23  # bytes; a tensor takes some 60
NAME_LIMIT = 256
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
}  # fmt: skip


def open_pickle(path: Path) -> dict[str, Stored]:
    """The tensors by name in a file of torch.save, or in the one dict of them within it (such as {"model": ...}).

    Numbers are mapped from the file when read, once their CRC holds. Two names of the same numbers are one `Stored`.
    FathomError where the file is damaged, holds anything but tensors, or is older than torch 1.6.
    """
    _require_zip(path)
    archive = open_archive(path)
    root = _root(archive)
    if f"{root}byteorder" in archive.members and archive.content(f"{root}byteorder", 16) != b"little":
        raise FathomError(f"{path}: its byteorder is not 'little'; save it on a machine with little-endian numbers")
    pickled = archive.content(f"{root}data.pkl", PICKLE_LIMIT)
    stored: dict[View, Stored] = {}
    try:
        views = _views(run(pickled))
        for name, view in views.items():
            if view not in stored:
                stored[view] = _stored(archive, root, name, view)
    except FathomError as problem:
        raise FathomError(f"{path}: {problem}") from None
    return {name: stored[view] for name, view in views.items()}


def _require_zip(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise FathomError(f"{path} cannot be read: {error.strerror}") from error
    if OLD in start:
        raise FathomError(
            f"{path} is in the format of torch before 1.6; expected a zip; "
            "convert it with a newer torch: torch.save(torch.load(path, weights_only=True), path)"
        )
    if not start.startswith(b"PK\3\4"):
        raise FathomError(f"{path} begins with {start[:4]!r}; expected the zip that torch.save writes")


def _root(archive: Archive) -> str:
    """The folder within the zip that holds everything, with its slash."""
    found = [name.removesuffix("data.pkl") for name in archive.members if name.endswith("/data.pkl")]
    if len(found) != 1:
        raise FathomError(f"{archive.path} is a zip with {len(found)} files data.pkl; expected the one of torch.save")
    return found[0]


def _views(value: object) -> dict[str, View]:
    """The dict of tensors in what a pickle holds."""
    if isinstance(value, dict) and View not in map(type, value.values()):
        inner = [item for item in value.values() if isinstance(item, dict) and View in map(type, item.values())]
        if len(inner) > 1:
            raise FathomError(
                f"it holds {len(inner)} dicts of tensors; expected one: save the model's state dict alone"
            )
        value = inner[0] if inner else None
    if not isinstance(value, dict):
        raise FathomError("it holds no dict of tensors; save a model's state dict")
    for name, item in value.items():
        if not isinstance(name, str) or len(name) > NAME_LIMIT:
            raise FathomError(
                f"a tensor has the name {str(name)[:40]!r}...; expected text of up to {NAME_LIMIT} characters"
            )
        if not isinstance(item, View):
            raise FathomError(
                f"{name!r} is {type(item).__name__}; expected a tensor: save the model's state dict alone"
            )
    return value


def _stored(archive: Archive, root: str, name: str, view: View) -> Stored:
    """The tensor, found to lie within its storage, and the storage to be as large as its member."""
    key, dtype, numel = view.storage.key, DTYPES[view.storage.kind], math.prod(view.shape)
    member = archive.members.get(f"{root}data/{key}")
    if member is None or member.size != view.storage.numel * dtype.itemsize:
        found = f"has {member.size} bytes" if member else "is missing"
        expected = f"{view.storage.numel} numbers of {dtype.itemsize} bytes"
        raise FathomError(f"{name!r}: its storage {key[:40]!r} {found}; expected {expected}")
    if not _dense(view):
        raise FathomError(
            f"{name!r} is {view.shape} in steps of {view.stride}; expected every number once: save tensor.contiguous()"
        )
    if view.offset + numel > view.storage.numel:
        raise FathomError(f"{name!r} needs {numel} numbers from {view.offset} on; its storage has {view.storage.numel}")
    return Stored(
        view.shape, view.storage.kind, numel * dtype.itemsize, partial(_read, archive, f"{root}data/{key}", view)
    )


def _dense(view: View) -> bool:
    """Whether every number is met once, none skipped: contiguous, but for the order of the dimensions."""
    expected = 1
    for step, size in sorted(zip(view.stride, view.shape)):
        if size != 1 and step != expected:
            return False
        expected *= size
    return expected > 0


def _read(archive: Archive, member: str, view: View) -> Tensor:
    dtype = DTYPES[view.storage.kind]
    start = archive.verify(member).start + view.offset * dtype.itemsize
    return tensor_at(archive.path, start, (math.prod(view.shape),), dtype).as_strided(view.shape, view.stride)
