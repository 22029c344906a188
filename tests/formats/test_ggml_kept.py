"""Matrices taken over from blocks: the same numbers to the bit, and for int8 and int4 what they pack themselves."""

import numpy as np
import pytest
import torch

from fathom.formats.ggml_blocks import IDS, TYPES, unpacked
from fathom.formats.ggml_kept import FORMATS, fields
from fathom.quant.schemes import FORMATS as BY_NAME
from fathom.quant.schemes import scheme_named
from tests.formats.test_ggml_blocks import numbers, same_bits

quants = pytest.importorskip("gguf.quants", reason="needs the extra `peers`")
constants = pytest.importorskip("gguf.constants", reason="needs the extra `peers`")
ROWS = 50


@pytest.mark.parametrize("name", FORMATS)
def test_any_blocks_keep_every_bit(name: str) -> None:
    """Of random bytes with finite scales, those of gguf-py's reference too."""
    kind, form = TYPES[IDS[name]], BY_NAME[FORMATS[name]]
    blocks = np.random.default_rng(0).integers(0, 256, (4 * ROWS, kind.nbytes), dtype=np.uint8).view(kind.layout)[:, 0]
    for field in ("scale", "offset"):
        if field in (kind.layout.names or ()):
            blocks[field] = np.random.default_rng(1).normal(size=len(blocks)).astype(np.float16)
    if name == "Q8_0":
        blocks["q"] = np.maximum(blocks["q"], -127)
    data, shape = torch.from_numpy(blocks.view(np.uint8)), (ROWS, 4 * kind.size)
    found = fields(data, kind, ROWS)
    assert found is not None
    assert {field: (x.shape, x.dtype) for field, x in found.items()} == {
        field: (x.shape, x.dtype) for field, x in form.empty(shape).items()
    }
    ours = form.dequantize(found, shape, torch.float32).numpy().reshape(-1)
    theirs = quants.dequantize(blocks.view(np.uint8), constants.GGMLQuantizationType[name]).reshape(-1)
    assert same_bits(ours, theirs) and same_bits(ours, unpacked(data, kind).numpy())
    assert sum(x.nbytes for x in found.values()) * 8 == form.bits * len(ours)
    some = form.rows(found, shape[1], torch.tensor([3, 0, 49]))
    assert some is not None
    assert np.array_equal(form.dequantize(some, (3, shape[1]), torch.float32).numpy(), ours.reshape(shape)[[3, 0, 49]])


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0"])
def test_codes_and_scales_are_those_of_the_scheme(name: str) -> None:
    """Taken out of the reference's bytes: what the scheme itself packs."""
    data = torch.from_numpy(quants.quantize(numbers()[2:], constants.GGMLQuantizationType[name]).reshape(-1))
    found = fields(data, TYPES[IDS[name]], len(numbers()) - 2)
    expected = scheme_named(FORMATS[name]).quantize(torch.from_numpy(numbers()[2:]))
    assert found is not None and found.keys() == expected.keys()
    tiny = (expected["scales"] == 0)[..., None]  # there the reference's codes stand for nothing
    for field, x in found.items():
        assert x.dtype == expected[field].dtype and x.shape == expected[field].shape
        assert torch.equal(
            x.where(~tiny, 0) if x.ndim == 3 else x, expected[field].where(~tiny, 0) if x.ndim == 3 else expected[field]
        )


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [("Q8_0", "scale", np.inf), ("Q4_0", "scale", np.nan), ("Q8_0", "q", -128), ("Q5_0", "scale", -np.inf),
     ("Q4_K", "scale", np.inf), ("Q5_K", "offset", np.nan), ("Q6_K", "scale", np.nan)],
)  # fmt: skip
def test_blocks_that_no_packing_would_make_are_not_taken_over(name: str, field: str, value: float) -> None:
    kind = TYPES[IDS[name]]
    blocks = np.zeros(4, kind.layout)
    assert fields(torch.from_numpy(blocks.view(np.uint8)), kind, 2) is not None
    blocks[field][3] = value
    assert fields(torch.from_numpy(blocks.view(np.uint8)), kind, 2) is None
