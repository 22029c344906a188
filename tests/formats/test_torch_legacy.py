"""Files of torch before 1.6, as torch.save still writes them when asked to: every tensor as torch itself loads it."""

from pathlib import Path

import pytest
import torch

from fathom.errors import FathomError
from fathom.formats.torch_file import open_pickle
from tests.mutants import survive

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


def write(path: Path) -> dict[str, torch.Tensor]:
    base = torch.randn(7, 6)
    state = {str(dtype): torch.randn(3, 5).mul(9).to(dtype) for dtype in DTYPES} | {"T": base.T, "rows": base[2:5]}
    learned = {"epoch": 3, "model": state, "optimizer": {"state": [{"m": torch.randn(40)}, (torch.ones(2), None)]}}
    torch.save(learned, path, _use_new_zipfile_serialization=False)
    return state


def test_every_tensor_is_what_torch_loads(tmp_path: Path) -> None:
    state = write(tmp_path / "x.bin")
    ours = open_pickle(tmp_path / "x.bin")
    assert list(ours) == list(state)
    for name, expected in state.items():
        assert ours[name].read().dtype == expected.dtype and torch.equal(ours[name].read(), expected)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: data[:-1], "cut short: .* fetch it again"),
        (lambda data: data[:900], "is damaged|cut short"),
        (lambda data: data.replace(b"M\xe9\x03.", b"M\xea\x03.", 1), "of another version"),
        (lambda data: data.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89", 1), "big-endian"),
    ],
)
def test_damaged(tmp_path: Path, damage: object, says: str) -> None:
    path = tmp_path / "x.bin"
    write(path)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(FathomError, match=says):
        open_pickle(path)


def test_mutants(tmp_path: Path) -> None:
    write(tmp_path / "x.bin")
    survive(lambda path: [stored.read().sum() for stored in open_pickle(path).values()], tmp_path / "x.bin", 1000)
