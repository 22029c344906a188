"""Files of torch.save, read without running them: a zip with a pickle (`data.pkl`) and the numbers (`data/0`, ...).

The pickle maps tensors to parts of storages; each is checked against its storage, and that against the file, before
anything is read. A zip is read from its end: the last record points to a directory of all members with sizes and CRCs
(PKWARE APPNOTE 6.3.9, 4.3 and 4.5.3). Not zipfile: it reads directories of any size, and lets members overlap.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from fathom.errors import FathomError
from fathom.formats.opened import CHUNK, DTYPES, ITEMSIZE, Stored, tensor_at
from fathom.formats.pickle_machine import View, is_legacy, run
from fathom.formats.torch_legacy import read_legacy

if TYPE_CHECKING:
    from torch import Tensor


END = struct.Struct("<4s4H2IH")  # signature, disks, counts, size and offset of the directory, length of the comment
END64 = struct.Struct("<4sQ2H2I4Q")  # the same with 64 bits
LOCATOR = struct.Struct("<4sIQI")  # points to END64
ENTRY = struct.Struct("<4s6H3I5H2I")  # one member in the directory; its name and extra fields follow
HEADER = struct.Struct("<4s5H3I2H")  # repeated before the member's bytes
EXTRA = struct.Struct("<2H")  # kind and length of an extra field
ZIP64 = 1
IN_EXTRA = 0xFFFFFFFF  # a number that needs 64 bits is in the extra field
ENCRYPTED = 1
DIRECTORY_LIMIT = 1 << 21  # bytes: some 25,000 members


@dataclass(frozen=True, slots=True)
class Member:
    """The bytes of one member: where they are, and their CRC."""

    start: int
    size: int
    crc: int


@dataclass(frozen=True)
class Archive:
    """The members of a zip by name. Their bytes can be trusted after `verify`."""

    path: Path
    members: dict[str, Member]
    verified: set[str] = field(default_factory=set)

    def verify(self, name: str) -> Member:
        """The member; FathomError unless its bytes have the CRC in the directory. Each is read through once."""
        member, crc = self.members[name], 0
        if name not in self.verified:
            for chunk in self._chunks(member):
                crc = zlib.crc32(chunk, crc)
            if crc != member.crc:
                raise FathomError(f"{self.path}: {name!r} is damaged: its CRC is wrong; fetch the file again")
            self.verified.add(name)
        return member

    def content(self, name: str, limit: int) -> bytes:
        """The bytes of a member of at most `limit`."""
        if self.members[name].size > limit:
            raise FathomError(f"{self.path}: {name!r} is {self.members[name].size} bytes; expected at most {limit}")
        return b"".join(self._chunks(self.verify(name)))

    def _chunks(self, member: Member) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file:
                file.seek(member.start)
                for done in range(0, member.size, CHUNK):
                    yield file.read(min(CHUNK, member.size - done))
        except OSError as error:
            raise FathomError(f"{self.path} cannot be read: {error.strerror}") from error


def open_archive(path: Path) -> Archive:
    """The zip at `path`, its directory checked against the file and its members against each other."""
    try:
        with path.open("rb") as file:
            return Archive(path, _members(file, path.stat().st_size, path))
    except OSError as error:
        raise FathomError(f"{path} cannot be read: {error.strerror}") from error


def _members(file: BinaryIO, file_size: int, path: Path) -> dict[str, Member]:
    start, size, count = _directory(file, file_size, path)
    file.seek(start)
    entries = sorted(_entries(file.read(size), path))
    last = entries[-1][0] if entries else 0
    if len(entries) != count or last >= start:
        actual = f"lists {len(entries)} members, the last at byte {last}"
        raise FathomError(f"{path}: the zip directory {actual}; expected {count} before byte {start}")
    members: dict[str, Member] = {}
    ends = [offset for offset, *_ in entries[1:]] + [start]
    for (offset, name, length, crc), end in zip(entries, ends):
        member = Member(_start(file, offset, name, path), length, crc)
        if member.start + length > end:
            raise FathomError(f"{path}: zip member {_text(name)!r} overlaps the next at byte {end}; it is damaged")
        if members.setdefault(_text(name), member) is not member:
            raise FathomError(f"{path}: two zip members have the name {_text(name)!r}; expected one of each")
    return members


def _directory(file: BinaryIO, file_size: int, path: Path) -> tuple[int, int, int]:
    """Start, size and number of entries of the directory, which must reach up to the records of the end."""
    file.seek(max(0, file_size - END.size - LOCATOR.size - END64.size))
    tail = file.read()
    if len(tail) < END.size or not tail[-END.size :].startswith(b"PK\5\6") or tail[-2:] != b"\0\0":
        raise FathomError(f"{path}: no zip directory at the end of {file_size} bytes; it is cut short, fetch it again")
    *_, count, size, start, _ = END.unpack(tail[-END.size :])
    end = file_size - END.size
    wide = tail[: END64.size]
    if tail[-END.size - LOCATOR.size :].startswith(b"PK\6\7") and wide.startswith(b"PK\6\6"):
        *_, count, size, start = END64.unpack(wide)
        end = file_size - len(tail)
    if start + size != end or size > DIRECTORY_LIMIT:
        raise FathomError(f"{path}: zip directory of {size} bytes at {start}; expected it to end at {end}")
    return start, size, count


def _entries(directory: bytes, path: Path) -> Iterator[tuple[int, bytes, int, int]]:
    """(offset of the header, name, size, crc) of each member."""
    at = 0
    while at < len(directory):
        entry = directory[at : at + ENTRY.size]
        if len(entry) < ENTRY.size or not entry.startswith(b"PK\1\2"):
            raise FathomError(f"{path}: byte {at} of the zip directory begins no entry; the file is damaged")
        _, _, _, flags, method, _, _, crc, packed, size, *lengths, _, _, _, offset = ENTRY.unpack(entry)
        after = at + ENTRY.size + lengths[0]
        name, extra = directory[at + ENTRY.size : after], directory[after : after + lengths[1]]
        packed, size, offset = _wide(extra, packed, size, offset)
        if method or flags & ENCRYPTED or packed != size:
            raise FathomError(f"{path}: zip member {_text(name)!r} is compressed or encrypted; torch.save does neither")
        yield offset, name, size, crc
        at += ENTRY.size + sum(lengths)


def _wide(extra: bytes, packed: int, size: int, offset: int) -> tuple[int, int, int]:
    """The three numbers, each from the ZIP64 field of `extra` where it did not fit into 32 bits."""
    at = 0
    while at + EXTRA.size <= len(extra):
        kind, length = EXTRA.unpack_from(extra, at)
        at += EXTRA.size + length
        if kind == ZIP64:
            body = extra[at - length : at]
            wide = iter(struct.unpack_from(f"<{len(body) // 8}Q", body))
            size = next(wide, size) if size == IN_EXTRA else size
            packed = next(wide, packed) if packed == IN_EXTRA else packed
            offset = next(wide, offset) if offset == IN_EXTRA else offset
            break
    return packed, size, offset


def _start(file: BinaryIO, offset: int, name: bytes, path: Path) -> int:
    """Where the bytes of a member begin: after its header, which repeats the name."""
    file.seek(offset)
    head = file.read(HEADER.size + len(name))
    if len(head) < HEADER.size + len(name) or not head.startswith(b"PK\3\4") or head[HEADER.size :] != name:
        raise FathomError(f"{path}: byte {offset} begins no zip member {_text(name)!r}; the file is damaged")
    *_, name_length, extra_length = HEADER.unpack_from(head)
    return offset + HEADER.size + name_length + extra_length


def _text(name: bytes) -> str:
    return name[:200].decode("utf-8", "replace")


PICKLE_LIMIT = 1 << 23  # bytes; a tensor takes some 60
NAME_LIMIT = 256


def open_pickle(path: Path) -> dict[str, Stored]:
    """The tensors by name in a file of torch.save, or in the one dict of them within it (such as {"model": ...}).

    Numbers are mapped into memory when read, after their CRC is checked. Two names of the same numbers are one
    `Stored`. FathomError where the file is damaged or holds anything but tensors.
    """
    value, read = open_saved(path)
    try:
        return read(_views(value))
    except FathomError as problem:
        raise FathomError(f"{path}: {problem}") from None


def open_saved(path: Path) -> tuple[Any, Callable[[Mapping[str, View]], dict[str, Stored]]]:
    """What torch.save wrote, a `View` for every tensor, and what makes tensors of some of them, by name."""
    value, archive, root = _legacy(path) if is_legacy(_start_of(path)) else _zipped(path)

    def read(views: Mapping[str, View]) -> dict[str, Stored]:
        stored: dict[View, Stored] = {}
        for name, view in views.items():
            if view not in stored:
                stored[view] = _stored(archive, root, name, view)
        return {name: stored[view] for name, view in views.items()}

    return value, read


def _start_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise FathomError(f"{path} cannot be read: {error.strerror}") from error
    if not start.startswith(b"PK\3\4") and not is_legacy(start):
        raise FathomError(f"{path} begins with {start[:4]!r}; expected the zip that torch.save writes")
    return start


def _zipped(path: Path) -> tuple[Any, Archive, str]:
    """What was pickled, the zip, and the folder in it."""
    archive = open_archive(path)
    root = _root(archive)
    if f"{root}byteorder" in archive.members and archive.content(f"{root}byteorder", 16) != b"little":
        raise FathomError(f"{path}: its byteorder is not 'little'; save it on a machine with little-endian numbers")
    try:
        return run(archive.content(f"{root}data.pkl", PICKLE_LIMIT)), archive, root
    except FathomError as problem:
        raise FathomError(f"{path}: {problem}") from None


def _legacy(path: Path) -> tuple[Any, Archive, str]:
    """The same of a file of torch before 1.6, which has no CRCs."""
    try:
        value, places = read_legacy(path)
    except FathomError as problem:
        raise FathomError(f"{path}: {problem}") from None
    members = {f"data/{key}": Member(start, size, 0) for key, (start, size) in places.items()}
    return value, Archive(path, members, set(members)), ""


def _root(archive: Archive) -> str:
    """The folder within the zip that holds everything, with its slash."""
    roots = [name.removesuffix("data.pkl") for name in archive.members if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise FathomError(f"{archive.path} is a zip with {len(roots)} files data.pkl; expected the one of torch.save")
    return roots[0]


def _views(value: object) -> dict[str, View]:
    """The dict of tensors in what a pickle holds."""
    if isinstance(value, dict) and View not in map(type, value.values()):
        inner = [item for item in value.values() if isinstance(item, dict) and View in map(type, item.values())]
        if len(inner) > 1:
            raise FathomError(f"it holds {len(inner)} dicts of tensors; expected one: save only the state dict")
        value = inner[0] if inner else None
    return views_in(value)


def views_in(value: object) -> dict[str, View]:
    """The same of the dict itself. FathomError where it holds anything else."""
    if not isinstance(value, dict):
        raise FathomError("it holds no dict of tensors; save a model's state dict")
    for name, item in value.items():
        if not isinstance(name, str) or len(name) > NAME_LIMIT:
            raise FathomError(f"a tensor has the name {str(name)[:40]!r}...; expected up to {NAME_LIMIT} characters")
        if not isinstance(item, View):
            raise FathomError(f"{name!r} is {type(item).__name__}; expected a tensor: save only the state dict")
    return value


def _stored(archive: Archive, root: str, name: str, view: View) -> Stored:
    """The tensor, once it is within its storage, and that as large as its member."""
    key, numel, itemsize = view.storage.key, math.prod(view.shape), ITEMSIZE[view.storage.kind]
    member = archive.members.get(f"{root}data/{key}")
    if member is None or member.size != view.storage.numel * itemsize:
        actual = f"has {member.size} bytes" if member else "is missing"
        expected = f"{view.storage.numel} numbers of {itemsize} bytes"
        raise FathomError(f"{name!r}: its storage {key[:40]!r} {actual}; expected {expected}")
    if not _dense(view):
        raise FathomError(
            f"{name!r} is {view.shape} in steps of {view.stride}; expected every number once: save tensor.contiguous()"
        )
    if view.offset + numel > view.storage.numel:
        raise FathomError(f"{name!r} needs {numel} numbers from {view.offset} on; its storage has {view.storage.numel}")
    return Stored(
        view.shape,
        view.storage.kind,
        numel * ITEMSIZE[view.storage.kind],
        partial(_read, archive, f"{root}data/{key}", view),
    )


def _dense(view: View) -> bool:
    """Whether every number is used once: contiguous, but for the order of the dimensions."""
    expected = 1
    for step, size in sorted(zip(view.stride, view.shape)):
        if size != 1 and step != expected:
            return False
        expected *= size
    return expected > 0


def _read(archive: Archive, member: str, view: View) -> Tensor:
    kind, numel = view.storage.kind, math.prod(view.shape)
    start = archive.verify(member).start + view.offset * ITEMSIZE[kind]
    return tensor_at(archive.path, start, (numel,), DTYPES[kind]).as_strided(view.shape, view.stride)
