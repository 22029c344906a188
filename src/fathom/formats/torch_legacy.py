"""Files of torch.save before version 1.6: five pickles one after another, then the numbers of every storage.

The pickles are a magic number, a version, the writer's machine, what was saved, and the keys of its storages, in whose
order each follows as a count of 64 bits and that many numbers (`_legacy_save` in torch/serialization.py).
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fathom.errors import FathomError
from fathom.formats.opened import ITEMSIZE
from fathom.formats.pickle_machine import Storage, View, run

VERSION = 1001
LIMIT = 1 << 23  # bytes of all five pickles; a tensor takes some 60


def read_legacy(path: Path) -> tuple[Any, dict[str, tuple[int, int]]]:
    """What was saved, with a `View` for every tensor, and the first byte and the size of each storage."""
    try:
        with path.open("rb") as file:
            head = io.BytesIO(file.read(LIMIT))
            _, version, machine, value, keys = (run(head) for _ in range(5))
            if version != VERSION or not isinstance(machine, dict) or machine.get("little_endian") is not True:
                raise FathomError("it is of another version, or of a machine with big-endian numbers; save it again")
            if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
                raise FathomError("it lists no storages; the file is damaged, fetch it again")
            known: dict[str, Storage] = {}
            for storage in storages(value):
                if known.setdefault(storage.key, storage) != storage:
                    raise FathomError(f"storage {storage.key[:40]!r} is of two kinds; the file is damaged")
            places, at = {}, head.tell()
            for key in keys:
                file.seek(at)
                count = int.from_bytes(file.read(8), "little")
                if key not in known or known[key].numel != count:
                    raise FathomError(f"storage {key[:40]!r} has {count} numbers, not those of its tensors; it is"
                                      " damaged or cut short: fetch it again")  # fmt: skip
                size = count * ITEMSIZE[known[key].kind]
                places[key], at = (at + 8, size), at + 8 + size
            if at > (total := path.stat().st_size):
                raise FathomError(f"it is cut short: {total} of {at} bytes are there; fetch it again")
            return value, places
    except OSError as error:
        raise FathomError(f"it cannot be read: {error.strerror}") from error


def storages(value: object) -> Iterator[Storage]:
    """Of every tensor in plain containers; what was saved is no deeper than a checkpoint."""
    pending = [value]
    while pending:
        match pending.pop():
            case View() as view:
                yield view.storage
            case dict() as inner:
                pending += inner.values()
            case list() | tuple() as inner:
                pending += inner
