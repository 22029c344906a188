"""NF4 unpacked natively equals torch's result, bit for bit, on every instruction set of this machine."""

import pytest
import torch

from fathom.native.interface import FLOATS
from fathom.native.kernels import unpack_nf4
from fathom.quant.nf4 import DYNAMIC, NF4_VALUES
from fathom.quant.schemes import SCHEMES


@pytest.mark.parametrize("name", ["nf4", "nf4-single"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (37, 101), (1, 64), (300, 257), (130, 256)])
def test_equals_torch_bit_for_bit(isa: str, name: str, shape: tuple[int, int]) -> None:
    scheme = SCHEMES[name]
    packed = scheme.quantize(torch.randn(shape) * torch.logspace(-3, 3, shape[1]))
    for dtype in FLOATS:
        matrix = unpack_nf4(packed, NF4_VALUES, DYNAMIC, shape, dtype)
        assert matrix is not None and matrix.dtype == dtype
        assert torch.equal(matrix, scheme.dequantize_in_torch(packed, shape, dtype))  # type: ignore[attr-defined]
        assert torch.equal(matrix, scheme.dequantize(packed, shape, dtype))


def test_nan_infinite_and_subnormal_scales(isa: str) -> None:
    packed = SCHEMES["nf4-single"].quantize(torch.randn(8, 64))
    packed["scales"] = torch.tensor([torch.nan, torch.inf, 0, 1e-45, 1e-40, 1.2e-38, -1e-3, -1e-39])
    for dtype in FLOATS:
        ours = unpack_nf4(packed, NF4_VALUES, DYNAMIC, (8, 64), dtype)
        theirs = SCHEMES["nf4-single"].dequantize_in_torch(packed, (8, 64), dtype)  # type: ignore[attr-defined]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def test_returns_none_for_other_formats_and_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = SCHEMES["nf4"].quantize(torch.randn(4, 80))
    assert unpack_nf4(packed, NF4_VALUES, DYNAMIC, (4, 80), torch.float64) is None
    meta = {name: x.to("meta") for name, x in packed.items()}
    assert unpack_nf4(meta, NF4_VALUES, DYNAMIC, (4, 80), torch.float32) is None
    expected = SCHEMES["nf4"].dequantize(packed, (4, 80), torch.bfloat16)
    monkeypatch.setenv("FATHOM_NATIVE", "off")
    assert unpack_nf4(packed, NF4_VALUES, DYNAMIC, (4, 80), torch.float32) is None
    assert torch.equal(SCHEMES["nf4"].dequantize(packed, (4, 80), torch.bfloat16), expected)
