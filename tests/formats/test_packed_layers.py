"""Packed layers against the libraries that define their layouts: what each wrote and unpacked is in packed/ (see
packed_golden.py), to the bit. Where bitsandbytes is installed, whole models that transformers packed with it, too."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import fathom
from fathom.formats.load import load
from fathom.formats.opened import DTYPES, Stored
from fathom.formats.packed_layer import Settings
from fathom.formats.quantized import settings_of, unpacked
from fathom.formats.safetensors_file import open_safetensors
from tests.formats.hf import GPT2, LLAMA, make

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


PACKINGS: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4, double": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": {"load_in_4bit": True},
    "int8": {"load_in_8bit": True},
}
WIDE = LLAMA | {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 4, "head_dim": 32}


@pytest.mark.parametrize("values", [WIDE, GPT2 | {"n_embd": 192}], ids=["llama", "gpt2"])
@pytest.mark.parametrize("packing", PACKINGS)
def test_models_that_transformers_packed(tmp_path: Path, packing: str, values: dict[str, Any]) -> None:
    library = pytest.importorskip("transformers", reason="needs the extra `peers`")
    pytest.importorskip("bitsandbytes", reason="needs the extra `quantised`")
    make(values).save_pretrained(tmp_path / "floats")
    theirs = library.AutoModelForCausalLM.from_pretrained(
        tmp_path / "floats", quantization_config=library.BitsAndBytesConfig(**PACKINGS[packing]), dtype=torch.float32
    )
    theirs.save_pretrained(tmp_path / "packed")
    ids = torch.arange(60)[None]
    expected = theirs.dequantize(dtype=torch.float32)(ids).logits
    for quantize in (None, *["nf4"] * packing.startswith("nf4")):
        model, _ = load(tmp_path / "packed", device="cpu", quantize=quantize)
        assert (model(ids) - expected).abs().max() <= 1e-5
    assert fathom.verify(tmp_path / "packed", against=["transformers"]).passed
