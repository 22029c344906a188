"""Headers that lie, each by one field; and files that tell the truth, against the library that defines the format."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fathom.errors import FathomError
from fathom.formats.safetensors_file import open_safetensors
from tests.mutants import survive

GOOD = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
}


def write(path: Path, header: Any, size: int = 32, length: int | None = None) -> Path:
    said = header if isinstance(header, bytes) else json.dumps(header).encode()
    with path.open("wb") as file:
        file.write((len(said) if length is None else length).to_bytes(8, "little") + said)
        file.truncate(8 + len(said) + size)
    return path


def test_every_tensor_is_what_the_library_reads(tmp_path: Path) -> None:
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
    tensors = {f"{kind}": torch.randn(3, 5).to(kind) for kind in kinds} | {"empty": torch.empty(0, 4)}
    tensors["scalar"] = torch.tensor(2.5)
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    found = open_safetensors(tmp_path / "a.safetensors")
    for name, tensor in load_file(tmp_path / "a.safetensors").items():
        assert found[name].shape == tuple(tensor.shape) and found[name].nbytes == tensor.nbytes
        assert found[name].read().dtype == tensor.dtype and torch.equal(found[name].read(), tensor)


def test_numbers_that_lie_across_words(tmp_path: Path) -> None:
    """A header of odd length, which older writers made."""
    said = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode().ljust(61)
    numbers = torch.tensor([1.5, -2.0])
    (tmp_path / "a").write_bytes(len(said).to_bytes(8, "little") + said + numbers.numpy().tobytes())
    assert torch.equal(open_safetensors(tmp_path / "a")["a"].read(), numbers)


def test_opening_and_reading_takes_no_memory(tmp_path: Path) -> None:
    """A tensor of a gibibyte, none of it on the disk; the map costs pages only when they are used."""
    entry = {"dtype": "BF16", "shape": [1 << 15, 1 << 14], "data_offsets": [0, 1 << 30]}
    path, before = write(tmp_path / "a", {"a": entry}, 1 << 30), resident()
    tensor = open_safetensors(path)["a"].read()
    assert tensor.shape == (1 << 15, 1 << 14) and float(tensor[-1, -1]) == 0
    assert resident() - before < 32 << 20


def resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


@pytest.mark.parametrize(
    "change, says",
    [
        ({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 20]}}, r"'a' has 20 bytes; F32 of .* needs 24"),
        ({"a": {"dtype": "F31", "shape": [2, 3], "data_offsets": [0, 24]}}, "has dtype 'F31'"),
        ({"a": {"dtype": ["F32"], "shape": [2, 3], "data_offsets": [0, 24]}}, "has dtype"),
        ({"a": {"dtype": "F32", "shape": [-2, -3], "data_offsets": [0, 24]}}, "has shape"),
        ({"a": {"dtype": "F32", "shape": [2.0, 3], "data_offsets": [0, 24]}}, "has shape"),
        ({"a": {"dtype": "F32", "shape": [True, 6], "data_offsets": [0, 24]}}, "has shape"),
        ({"a": {"dtype": "F32", "shape": [1] * 100 + [6], "data_offsets": [0, 24]}}, "has shape"),
        ({"a": {"dtype": "F32", "shape": [1 << 70], "data_offsets": [0, 24]}}, "has shape"),
        ({"a": {"dtype": "F32", "shape": [1 << 40] * 8, "data_offsets": [0, 24]}}, "needs"),
        ({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [24, 0]}}, "has -24 bytes"),
        ({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0]}}, "data_offsets"),
        ({"a": {"dtype": "F32", "shape": [2, 3]}}, "data_offsets None"),
        ({"a": 3}, "has dtype None"),
        ({"b": {"dtype": "BF16", "shape": [4], "data_offsets": [16, 24]}}, "an overlap of 8 bytes between 'a' and 'b'"),
        ({"b": {"dtype": "BF16", "shape": [2], "data_offsets": [28, 32]}}, "a gap of 4 bytes between 'a' and 'b'"),
        ({"b": {"dtype": "BF16", "shape": [2], "data_offsets": [24, 28]}}, "a gap of 4 bytes between 'b' and"),
        ({"b": {"dtype": "BF16", "shape": [8], "data_offsets": [24, 40]}}, "cut off: 32 of 40 bytes"),
        ({"c": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [32, 32 + (4 << 40)]}}, "cut off"),
        ({"n" * 1000: {"dtype": "F32", "shape": [0], "data_offsets": [32, 32]}}, "a name of 1000 characters"),
    ],
)
def test_a_header_that_lies(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(FathomError, match=says) as caught:
        open_safetensors(write(tmp_path / "a", {**GOOD, **change}))
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "said, says",
    [
        (b"", "is not JSON"),
        (b"[]", "holds list; expected an object"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"a": ' * 100_000, "is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b"\xff\xfe{}", "is not JSON"),
    ],
)
def test_a_header_that_is_none(tmp_path: Path, said: bytes, says: str) -> None:
    with pytest.raises(FathomError, match=says):
        open_safetensors(write(tmp_path / "a", said, 0))


@pytest.mark.parametrize(
    "length, says", [(1 << 63, "in its header"), (33, "in its header"), (3 << 20, "at most 2097152")]
)
def test_a_header_of_a_length_that_cannot_be(tmp_path: Path, length: int, says: str) -> None:
    with pytest.raises(FathomError, match=says):
        open_safetensors(write(tmp_path / "a", b"{}", 30 if length < 1 << 20 else 1 << 30, length))


def test_the_same_name_twice(tmp_path: Path) -> None:
    """The second hides the first, whose bytes then belong to nobody."""
    with pytest.raises(FathomError, match="a gap of 24 bytes"):
        open_safetensors(write(tmp_path / "a", json.dumps(GOOD)[:-1].replace('"b"', '"a"').encode() + b"}"))


def test_dtypes_that_are_no_weights_are_listed_but_not_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3, dtype=torch.int8)}, tmp_path / "a")
    stored = open_safetensors(tmp_path / "a")["a"]
    assert (stored.kind, stored.nbytes) == ("I8", 3)
    with pytest.raises(FathomError, match="'a' is I8; weights are read as F64, F32, F16, BF16"):
        stored.read()


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: None], ids=["empty", "folder", "missing"])
def test_no_file(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "a")
    with pytest.raises(FathomError, match=r"in its header|cannot be read"):
        open_safetensors(tmp_path / "a")


@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_files(tmp_path: Path, count: int) -> None:
    def read(path: Path) -> None:
        for stored in open_safetensors(path).values():
            stored.read().sum()

    save_file({"a": torch.ones(2, 3), "b": torch.ones(4), "c": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "a")
    survive(read, tmp_path / "a", count)
