"""NF4 against published constants and against bitsandbytes: live where it is installed, else its recorded output."""

import json
import math

import pytest
import torch
from torch import Tensor

from fathom.quant.nf4 import DYNAMIC, NF4_VALUES
from fathom.quant.schemes import SCHEMES
from tests.quant.golden import GOLDEN, SHAPES, digest, weights

PUBLISHED = [  # QLoRA, appendix E
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
DOUBLE, SINGLE = SCHEMES["nf4"], SCHEMES["nf4-single"]
FACTS = json.loads(GOLDEN.read_text(encoding="utf-8"))


def places(codes: Tensor, n: int) -> Tensor:
    """(n,): the places in NF4, one a number."""
    return torch.stack((codes.flatten() >> 4, codes.flatten() & 15), 1).flatten()[:n].int()


def test_values_are_those_published() -> None:
    assert (NF4_VALUES - torch.tensor(PUBLISHED)).abs().max() <= 6e-8  # half a step of fp32 below 1


def test_values_are_equally_likely_quantiles() -> None:
    """What makes them so: in probability, they are evenly spaced on either side of 0."""
    outermost = 1 - (1 / 32 + 1 / 30) / 2
    end = math.sqrt(2) * torch.special.erfinv(torch.tensor(2 * outermost - 1, dtype=torch.float64))
    probabilities = torch.special.ndtr(NF4_VALUES.double() * end)
    for side, steps in ((probabilities[:8], 7), (probabilities[7:], 8)):
        assert (side.diff() - (outermost - 0.5) / steps).abs().max() < 1e-6


def test_dynamic_values_fill_seven_decades() -> None:
    assert len(DYNAMIC) == 256 and (DYNAMIC.diff() > 0).all()
    assert DYNAMIC[127] == 0 and DYNAMIC[-1] == 1 and torch.equal(-DYNAMIC[:127].flip(0), DYNAMIC[128:255])
    decades = DYNAMIC[128:255].log10().floor().int()
    assert decades.unique(return_counts=True)[1].tolist() == [1, 2, 4, 8, 16, 32, 64]


@pytest.mark.parametrize("shape", SHAPES)
def test_packed_as_bitsandbytes_packed_it(shape: tuple[int, int]) -> None:
    facts, weight = FACTS["{} x {}".format(*shape)], weights(*shape)
    single, double = SINGLE.quantize(weight), DOUBLE.quantize(weight)
    filled = single["codes"].flatten()
    assert digest(filled[: -(-weight.numel() // 2)]) == facts["codes"] and torch.equal(double["codes"], single["codes"])
    assert digest(single["scales"]) == facts["scales"]
    numbers = SINGLE.dequantize(single, shape, torch.float32).flatten()[::97]
    torch.testing.assert_close(numbers, torch.tensor(facts["numbers"]), rtol=1e-6, atol=0)
    assert double["scale_codes"].tolist() == facts["scale_codes"]
    for field in ("scale_ranges", "scale_mean"):
        torch.testing.assert_close(double[field], torch.tensor(facts[field]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(160, 128), (37, 101), (96, 96), (300, 257), (1, 1), (2, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_same_as_bitsandbytes(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """All codes and values. The weights go in as one row: its own CPU kernel forgets that blocks may cross rows."""
    bnb = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
    weight, n = (torch.randn(shape) / 30).to(dtype), math.prod(shape)
    codes, state = bnb.quantize_4bit(weight.flatten(), blocksize=64, quant_type="nf4")
    packed = SINGLE.quantize(weight)
    wrong = (places(packed["codes"], n) - places(codes, n)).abs()
    assert (wrong > 0).sum() <= n / 10_000 and wrong.max() <= 1
    if not wrong.any():
        theirs = bnb.dequantize_4bit(codes, state).reshape(shape)
        assert torch.equal(SINGLE.dequantize(packed, shape, dtype), theirs)


@pytest.mark.parametrize("shape", [(160, 128), (256, 512), (37, 101), (300, 257)])
def test_double_quantisation_as_bitsandbytes_has_it(shape: tuple[int, int]) -> None:
    """Scales of scales to the bit. Its CPU build looks the 8-bit codes up in a coarse table: few differ, by little."""
    bnb = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
    weight = torch.randn(shape) / 30
    _, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
    packed = DOUBLE.quantize(weight)
    assert torch.equal(state.offset, packed["scale_mean"])
    assert torch.equal(state.state2.absmax, packed["scale_ranges"])
    wrong = (packed["scale_codes"].int() - state.absmax.int()).abs()
    apart = (DYNAMIC[packed["scale_codes"].int()] - DYNAMIC[state.absmax.int()]).abs()
    assert (wrong > 0).float().mean() <= 0.02 and ((wrong <= 1) | (apart < 1e-4)).all()
    exact = torch.ops.bitsandbytes.quantize_blockwise(
        (SINGLE.quantize(weight)["scales"] - state.offset).double(), DYNAMIC, 256
    )[0]  # in fp64 it looks for the nearest itself
    assert torch.equal(packed["scale_codes"], exact)
    theirs = bnb.dequantize_blockwise(packed["scale_codes"], state.state2) + state.offset
    ours = DOUBLE.dequantize(packed, shape, torch.float32)
    assert torch.equal(ours, SINGLE.dequantize({"codes": packed["codes"], "scales": theirs}, shape, torch.float32))


def test_blocks_go_on_from_row_to_row() -> None:
    weight = torch.randn(4, 48)
    row, whole = SINGLE.quantize(weight.reshape(1, 192)), SINGLE.quantize(weight)
    assert torch.equal(row["codes"], whole["codes"]) and torch.equal(row["scales"], whole["scales"])
