"""Packed layers against the libraries that define their layouts: what each wrote and unpacked is in packed/ (see
packed_golden.py), and each layout is computed once more in float64 from its published description."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from fathom.formats.opened import DTYPES, Stored
from fathom.formats.packed_layer import Settings
from fathom.formats.quantized import settings_of, unpacked
from fathom.formats.safetensors_file import open_safetensors

FOLDER = Path(__file__).with_name("packed")
CASES = sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def settings(path: Path) -> Settings:
    with safe_open(path, "pt") as file:
        entries = json.loads(file.metadata()["settings"])
    key = "quantization_config" if "quant_method" in entries else "quantization"
    found = settings_of({key: entries}, str(path))
    assert found is not None
    return found


def layer(name: str) -> tuple[Stored, torch.Tensor]:
    """The one packed matrix of a file as we read it, and what the library made of it."""
    path = FOLDER / f"{name}.safetensors"
    tensors = open_safetensors(path, DTYPES)
    expected = tensors.pop("expected").read()
    (stored,) = unpacked(settings(path), tensors, str(path)).values()
    return stored, expected


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_of_the_library(name: str) -> None:
    stored, expected = layer(name)
    actual = stored.read()
    assert actual.dtype == torch.float32 and stored.shape == tuple(expected.shape)
    if name.startswith("mlx"):  # its CPU code multiplies and adds at once, with one rounding
        assert (actual - expected).abs().max() <= 2**-23 * expected.abs().max()
    else:
        assert torch.equal(actual.to(expected.dtype), expected)


@pytest.mark.parametrize("name", CASES)
def test_a_range_of_rows_is_part_of_the_whole(name: str) -> None:
    stored, _ = layer(name)
    whole = stored.read()
    for start, stop in ((0, 32), (0, 1), (5, 6), (3, 29), (31, 32)):
        assert torch.equal(stored.rows(start, stop), whole[start:stop])
