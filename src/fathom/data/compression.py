"""Files that may be compressed, by the end of their names: .gz and .zst are decompressed as they are read.

Data that end too early or are damaged are an error, never a shorter file.
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, cast

from fathom.errors import FathomError

COMPRESSED = (".gz", ".zst")
BLOCK = 1 << 10  # bytes decompressed at a time: Zstandard makes up to 32,000 of each


def plain_suffix(path: Path) -> str:
    """The suffix of a file's name, in lower case, without that of its compression."""
    name = Path(path.name.lower())
    return (name.with_suffix("") if name.suffix in COMPRESSED else name).suffix


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes, decompressed. FathomError: it cannot be read, is damaged, or needs a package.

    Where what is read inside makes no sense, the error is that the data are damaged, if they are.
    """
    with _decompressed(path) as file:
        try:
            yield file
        except FathomError:
            require_undamaged(path)
            raise


def require_undamaged(path: Path) -> None:
    """FathomError where compressed data are damaged: their checksum, which tells, comes after what they become."""
    if path.suffix.lower() in COMPRESSED and (problem := _damage(path, path.stat().st_mtime_ns)):
        raise FathomError(problem)


@lru_cache(maxsize=8)
def _damage(path: Path, changed: int) -> str:
    """What is wrong with a file as it is read through; nothing where it is whole. changed: when it was."""
    try:
        with _decompressed(path) as file:
            while file.read(1 << 20):
                pass
    except FathomError as problem:
        return str(problem)
    return ""


@contextmanager
def _decompressed(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            match path.suffix.lower():
                case ".gz":
                    yield cast(BinaryIO, gzip.GzipFile(fileobj=file))
                case ".zst":
                    yield cast(BinaryIO, io.BufferedReader(Zstandard(file, path)))
                case _:
                    yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise FathomError(f"{path}: its compressed data are damaged ({problem}); copy it again") from None
    except OSError as problem:
        raise FathomError(
            f"{path}: cannot be read ({(problem.strerror or str(problem)).lower()}); give a file of text or records"
        ) from problem


class Zstandard(io.RawIOBase):
    """The content of a .zst file of one or several frames."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, (self.new, self.problem) = file, decompressor(path)
        self.frame, self.left, self.within = self.new(), b"", False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.left:
            block = (self.frame.unused_data if self.frame.eof else b"") or self.file.read(BLOCK)
            if not block and self.within:
                raise EOFError("the last frame is not complete")
            if not block:
                return 0
            if self.frame.eof:
                self.frame = self.new()
            try:
                self.left = self.frame.decompress(block)
            except self.problem as problem:
                raise EOFError(str(problem)) from None
            self.within = not self.frame.eof
        size = min(len(self.left), len(buffer))
        buffer[:size], self.left = self.left[:size], self.left[size:]
        return size


def decompressor(path: Path) -> tuple[Any, type[Exception]]:
    """A function that makes a decompressor of a frame, and the error it raises: Python's own, or of `zstandard`."""
    try:
        module = import_module("compression.zstd")  # Python 3.14
        return module.ZstdDecompressor, module.ZstdError
    except ImportError:
        pass
    try:
        module = import_module("zstandard")
    except ImportError:
        raise FathomError(f"{path}: .zst needs the package zstandard; pip install 'fathom-lm[data]'") from None
    return lambda: module.ZstdDecompressor().decompressobj(), module.ZstdError
