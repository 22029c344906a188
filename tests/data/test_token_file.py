"""Token files are plain .npy, complete or absent, and no id in them ever wraps."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.data import token_file
from fathom.data.token_file import open_tokens, read_blocks, write_tokens
from fathom.errors import FathomError, OutsideVocabulary

Temp = pytest.TempPathFactory
U16 = np.dtype(np.uint16)


@given(
    arrays=st.lists(st.lists(st.integers(0, 299), max_size=20), max_size=8), dtype=st.sampled_from(["uint16", "uint32"])
)
def test_numpy_reads_what_was_written(arrays: list[list[int]], dtype: str, tmp_path_factory: Temp) -> None:
    path = tmp_path_factory.getbasetemp() / "tokens.npy"
    flat = [id for array in arrays for id in array]
    assert write_tokens(path, (np.array(a, np.uint32) for a in arrays), np.dtype(dtype)) == len(flat)
    tokens = np.load(path)
    assert tokens.tolist() == flat
    assert tokens.dtype == dtype
    assert open_tokens(path, 300).tolist() == flat


def test_opened_as_a_memory_map_that_cannot_be_written(tmp_path: Path) -> None:
    write_tokens(tmp_path / "t.npy", [np.arange(10, dtype=U16)], U16)
    tokens = open_tokens(tmp_path / "t.npy", 10)
    assert isinstance(tokens, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1


@given(start=st.integers(0, 25), stop=st.integers(0, 25) | st.none())
def test_blocks_are_a_slice(start: int, stop: int | None, tmp_path_factory: Temp) -> None:
    path = tmp_path_factory.getbasetemp() / "blocks.npy"
    write_tokens(path, [np.arange(20, dtype=U16)], U16)
    whole = token_file.BLOCK
    token_file.BLOCK = 3
    try:
        found = [id for block in read_blocks(path, start, stop) for id in block.tolist()]
    finally:
        token_file.BLOCK = whole
    assert found == list(range(20))[start:stop]


@pytest.mark.parametrize("bad", [256, 65536, 1 << 31])
def test_an_id_never_wraps_on_the_way_in(bad: int, tmp_path: Path) -> None:
    arrays = [np.zeros(7, np.uint32), np.array([0, 0, bad], np.uint32)]
    with pytest.raises(OutsideVocabulary, match=rf"t\.npy: id {bad} at index 9 does not fit the type uint8"):
        write_tokens(tmp_path / "t.npy", arrays, np.dtype(np.uint8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", [0, 4, 9])
def test_an_id_outside_the_vocabulary_is_named_with_file_and_index(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_file, "BLOCK", 4)
    ids = np.zeros(10, U16)
    ids[place] = 65
    write_tokens(tmp_path / "t.npy", [ids], U16)
    assert len(open_tokens(tmp_path / "t.npy", 66)) == 10
    with pytest.raises(OutsideVocabulary, match=rf"t\.npy: id 65 at index {place} does not fit a vocabulary of 65"):
        open_tokens(tmp_path / "t.npy", 65)


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    changed = {
        "empty": b"",
        "cut": content[:-5],
        "cut header": content[:40],
        "no magic": b"\0" * 8 + content[8:],
        "text": b"To be or not to be, that is the question" * 5,
        "zip": b"PK\3\4" + content,
        "huge": content.replace(b"(10,)", b"(10000000000,)"),
        "eval": content.replace(b"(10,)", b"(x(),)"),
    }
    path.write_bytes(changed[how])


@pytest.mark.parametrize("how", ["empty", "cut", "cut header", "no magic", "text", "zip", "huge", "eval"])
def test_a_damaged_file_is_one_line(how: str, tmp_path: Path) -> None:
    write_tokens(tmp_path / "t.npy", [np.arange(10, dtype=U16)], U16)
    damage(tmp_path / "t.npy", how)
    with pytest.raises(FathomError, match=r"t\.npy: .*prepare the data again") as error:
        open_tokens(tmp_path / "t.npy", 10)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "array",
    [np.zeros((2, 5), np.uint16), np.zeros(5, np.int64), np.zeros(5), np.array(["a"], object), np.zeros((), np.uint8)],
    ids=["rows", "signed", "float", "pickle", "scalar"],
)
def test_other_arrays_are_refused(array: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", array)
    with pytest.raises(FathomError, match=r"t\.npy: .*prepare the data again"):
        open_tokens(tmp_path / "t.npy", 10)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FathomError, match=r"gone\.npy: cannot be read"):
        open_tokens(tmp_path / "gone.npy", 10)


def interrupted() -> Iterator[np.ndarray]:
    yield np.arange(5, dtype=U16)
    raise KeyboardInterrupt


@pytest.mark.parametrize("call", ["write", "fsync", "replace", "interrupt"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.npy"
    write_tokens(path, [np.arange(3, dtype=U16)], U16)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if call == "write":  # a device that is always full
        opened = Path.open
        monkeypatch.setattr(Path, "open", lambda self, mode: opened(Path("/dev/full"), mode))
    elif call != "interrupt":
        monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[call], full)
    arrays = interrupted() if call == "interrupt" else [np.arange(1 << 16, dtype=U16)]
    with pytest.raises(KeyboardInterrupt if call == "interrupt" else FathomError, match=None) as error:
        write_tokens(path, arrays, U16)
    monkeypatch.undo()
    if call != "interrupt":
        assert "t.npy: cannot be written (no space left on device)" in str(error.value)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["t.npy"]
