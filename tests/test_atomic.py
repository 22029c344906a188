"""A file is old or new, never a part: claims against what an interrupted writer leaves on disk."""

import errno
import os
from pathlib import Path

import pytest

from fathom.files import atomic_write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.npy"
    path.write_bytes(b"old")
    return path


def test_the_new_bytes_take_the_place_of_the_old(path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_a_new_file_is_as_readable_as_any(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with atomic_write(tmp_path / "atomic") as temporary:
        temporary.write_bytes(b"new")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), RuntimeError("a bug")])
def test_an_error_within_leaves_the_old_bytes_and_nothing_else(path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), atomic_write(path) as temporary:
        temporary.write_bytes(b"ne")
        raise error
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_error_at_the_end_leaves_the_old_bytes_and_nothing_else(
    path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="broken"), atomic_write(path) as temporary:
        temporary.write_bytes(b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_bytes_are_synced_before_the_rename_and_the_name_after(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def log(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(os.fstat(descriptor).st_ino if path.read_bytes() == b"old" else -os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", log)
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"new")
    assert synced == [path.stat().st_ino, -path.parent.stat().st_ino]


def test_writers_of_one_path_do_not_share_a_temporary(path: Path) -> None:
    with atomic_write(path) as one, atomic_write(path) as other:
        one.write_bytes(b"one")
        other.write_bytes(b"other")
        assert one != other
    assert path.read_bytes() == b"one"  # the one that ended last


def test_a_missing_folder_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "no" / "file") as temporary:
        temporary.write_bytes(b"new")
