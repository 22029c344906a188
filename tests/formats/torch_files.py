"""Files of torch.save, and such as torch.save would never write: zips and pickles put together by hand."""

import io
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass
class Outside:
    """What the pickle refers to by its id."""

    id: Any


@dataclass
class Call:
    """What the pickle asks to be made by a call."""

    function: Any
    arguments: tuple[Any, ...]

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


class Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return value.id if isinstance(value, Outside) else None


def pickled(value: Any, protocol: int = 2) -> bytes:
    file = io.BytesIO()
    Pickler(file, protocol).dump(value)
    return file.getvalue()


def storage(numel: Any = 12, key: Any = "0", kind: Any = torch.FloatStorage, word: Any = "storage") -> Outside:
    return Outside((word, kind, key, "cpu", numel))


def tensor(offset: Any = 0, shape: Any = (3, 4), stride: Any = (4, 1), source: Any = None) -> Call:
    return Call(torch._utils._rebuild_tensor_v2, (source or storage(), offset, shape, stride, False, {}))


def write(path: Path, pickle: bytes, members: Mapping[str, bytes] | None = None, **settings: Any) -> Path:
    """A zip with this pickle and twelve floats as its storage 0, or with these members besides."""
    with zipfile.ZipFile(path, "w", **settings) as file:
        file.writestr("x/data.pkl", pickle)
        for name, content in ({"data/0": bytes(48), "byteorder": b"little"} if members is None else members).items():
            file.writestr(f"x/{name}", content)
    return path
