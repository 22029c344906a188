"""NF4 unpacked natively is what torch makes of it, to the bit, with every instruction set of this machine."""

import pytest
import torch

from fathom.native.build import FLAGS, NEEDS, compiler, features
from fathom.native.interface import FLOATS
from fathom.native.kernels import unpack_nf4
from fathom.quant.nf4 import DYNAMIC, NF4_VALUES
from fathom.quant.schemes import SCHEMES

pytestmark = pytest.mark.usefixtures("two_threads")
HERE = [kind for kind in FLAGS if NEEDS[kind] <= features()]
needs_compiler = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")


@needs_compiler
@pytest.mark.parametrize("kind", HERE)
@pytest.mark.parametrize("name", ["nf4", "nf4-single"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (37, 101), (1, 64), (300, 257), (130, 256)])
def test_equal_to_torch_to_the_bit(
    kind: str, name: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FATHOM_NATIVE", kind)
    scheme = SCHEMES[name]
    packed = scheme.quantize(torch.randn(shape) * torch.logspace(-3, 3, shape[1]))
    for dtype in FLOATS:
        made = unpack_nf4(packed, NF4_VALUES, DYNAMIC, shape, dtype)
        assert made is not None and made.dtype == dtype
        assert torch.equal(made, scheme.spelled(packed, shape, dtype))  # type: ignore[attr-defined]
        assert torch.equal(made, scheme.dequantize(packed, shape, dtype))


@needs_compiler
@pytest.mark.parametrize("kind", HERE)
def test_scales_that_are_no_numbers_or_hardly_any_stay_so(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FATHOM_NATIVE", kind)
    packed = SCHEMES["nf4-single"].quantize(torch.randn(8, 64))
    packed["scales"] = torch.tensor([torch.nan, torch.inf, 0, 1e-45, 1e-40, 1.2e-38, -1e-3, -1e-39])
    for dtype in FLOATS:
        ours = unpack_nf4(packed, NF4_VALUES, DYNAMIC, (8, 64), dtype)
        theirs = SCHEMES["nf4-single"].spelled(packed, (8, 64), dtype)  # type: ignore[attr-defined]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def test_what_it_cannot_do_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = SCHEMES["nf4"].quantize(torch.randn(4, 80))
    assert unpack_nf4(packed, NF4_VALUES, DYNAMIC, (4, 80), torch.float64) is None
    meta = {name: x.to("meta") for name, x in packed.items()}
    assert unpack_nf4(meta, NF4_VALUES, DYNAMIC, (4, 80), torch.float32) is None
    expected = SCHEMES["nf4"].dequantize(packed, (4, 80), torch.bfloat16)
    monkeypatch.setenv("FATHOM_NATIVE", "off")
    assert unpack_nf4(packed, NF4_VALUES, DYNAMIC, (4, 80), torch.float32) is None
    assert torch.equal(SCHEMES["nf4"].dequantize(packed, (4, 80), torch.bfloat16), expected)
