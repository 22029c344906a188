"""Bits in, bits out, judged by safetensors' own reader."""

import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fathom.errors import FathomError
from fathom.formats.safetensors_file import TensorFile, read_tensors, write_tensors

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


def test_every_dtype_and_shape_comes_back_bit_for_bit(tmp_path: Path) -> None:
    tensors = {f"{dtype}/{n}": (torch.randn(n, 3) * 100).to(dtype) for dtype in DTYPES for n in (0, 1, 5)}
    tensors |= {
        "scalar": torch.tensor(float("nan")),
        "turned": torch.randn(4, 3).T,
        "negative zero": torch.tensor([-0.0]),
    }
    write_tensors(tmp_path / "a.safetensors", tensors)
    found = load_file(tmp_path / "a.safetensors")
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        assert bits(found[name]) == bits(tensor)


def test_a_file_can_be_written_over_by_tensors_that_are_maps_of_it(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.arange(30_000.0)})
    write_tensors(path, {**read_tensors(path), "b": torch.ones(1)})
    assert torch.equal(load_file(path)["a"], torch.arange(30_000.0))


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.contiguous().view(-1).view(torch.uint8).tolist()


def test_the_file_is_as_readable_as_any(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(3)})
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("place", ["no/folder/a.safetensors", "."])
def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, place: str) -> None:
    with pytest.raises(FathomError, match="cannot be written"):
        write_tensors(tmp_path / place, {"a": torch.zeros(3)})


def test_a_disk_that_takes_no_more_is_one_line(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(FathomError, match=r"a\.safetensors cannot be written: .*too large"):
            write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_the_file_is_the_one_that_the_library_writes(tmp_path: Path) -> None:
    tensors = {f"{dtype}/{n}": (torch.randn(n, 3) * 100).to(dtype) for dtype in DTYPES for n in (0, 1, 5)}
    tensors |= {"scalar": torch.tensor(2.0), "turned": torch.randn(4, 3).T, "größer": torch.ones(7, dtype=torch.uint8)}
    write_tensors(tmp_path / "a.safetensors", tensors)
    save_file({name: x.contiguous() for name, x in tensors.items()}, tmp_path / "b", metadata={"format": "pt"})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b").read_bytes()


def test_tensors_come_one_after_another_also_where_the_file_cannot_be_written(tmp_path: Path) -> None:
    """Processes that hold parts of them take part in each, so none may be left out."""
    made, tensors = list[float](), {"b": torch.full((2,), 2.0), "a": torch.full((3,), 1.0)}

    def whole(x: torch.Tensor) -> torch.Tensor:
        made.append(float(x[0]))
        return x

    file = TensorFile(tensors, whole)
    with pytest.raises(FathomError, match="cannot be written"):
        file.write(tmp_path / "no/folder/a")
    file.skip()
    assert made == [1.0, 2.0]
