"""int8 and int4 hold what GGUF's Q8_0 and Q4_0 hold: gguf's reference makes the same scales and codes, bit for bit."""

import numpy as np
import pytest
import torch

from fathom.quant.schemes import SCHEMES

gguf = pytest.importorskip("gguf", reason="needs the extra `peers`")
TYPES = {"int8": gguf.GGMLQuantizationType.Q8_0, "int4": gguf.GGMLQuantizationType.Q4_0}


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("shape", [(1, 32), (37, 96), (64, 512)])
@pytest.mark.parametrize("size", [1e-5, 0.02, 100.0])
def test_packed_tensors_are_the_bytes_of_gguf(name: str, shape: tuple[int, int], size: float) -> None:
    """A block there: the scale, 2 bytes, then the codes. To take one over is to cut it in two."""
    weight = torch.randn(shape) * size
    packed = SCHEMES[name].quantize(weight)
    blocks = gguf.quants.quantize(weight.numpy(), TYPES[name]).reshape(shape[0], shape[1] // 32, -1)
    scales, codes = np.split(blocks, [2], axis=-1)
    assert scales.tobytes() == packed["scales"].numpy().tobytes()
    assert codes.tobytes() == packed["codes"].numpy().tobytes()
    theirs = gguf.quants.dequantize(blocks.reshape(shape[0], -1), TYPES[name])
    assert torch.equal(SCHEMES[name].dequantize(packed, shape, torch.float32), torch.from_numpy(theirs))


@pytest.mark.parametrize("name", TYPES)
def test_halves_and_ties_go_the_way_of_gguf(name: str) -> None:
    """Numbers in the middle between two codes, and a largest one that occurs with both signs."""
    top = 127.0 if name == "int8" else 8.0
    rows = [torch.arange(-top, top, 0.5)[i : i + 31] for i in range(0, 400, 31)]
    rows = [torch.cat((torch.tensor([sign * top]), row)) for row in rows if len(row) == 31 for sign in (1, -1)]
    weight = torch.stack([*rows, torch.tensor([top, -top] * 16), torch.tensor([-top, top] * 16)])
    theirs = gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), TYPES[name]), TYPES[name])
    ours = SCHEMES[name].dequantize(SCHEMES[name].quantize(weight), tuple(weight.shape), torch.float32)
    assert torch.equal(ours, torch.from_numpy(theirs))


@pytest.mark.parametrize("name", TYPES)
def test_a_row_that_is_not_whole_groups_is_filled_up_with_zeros(name: str) -> None:
    scheme, weight = SCHEMES[name], torch.randn(5, 172)
    full = scheme.quantize(torch.nn.functional.pad(weight, (0, 20)))
    packed = scheme.quantize(weight)
    assert all(torch.equal(packed[field], full[field]) for field in scheme.fields)
    assert torch.equal(scheme.dequantize(packed, (5, 172), torch.float32),
                       scheme.dequantize(full, (5, 192), torch.float32)[:, :172])  # fmt: skip


@pytest.mark.parametrize("name", TYPES)
def test_a_group_too_small_for_its_scale_is_zero(name: str) -> None:
    """Where gguf keeps codes beside a scale of 0, these are 0 as well: the values are the same."""
    weight = torch.cat((torch.randn(2, 32) * 1e-9, torch.full((1, 32), 1e-42), torch.randn(1, 32)))
    packed = SCHEMES[name].quantize(weight)
    numbers = SCHEMES[name].dequantize(packed, (4, 32), torch.float32)
    assert not packed["scales"][:3].any() and not numbers[:3].any() and numbers[3].any()
