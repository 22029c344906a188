"""What every number format promises: it packs what it unpacked into the same, in as many bytes as it says."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fathom.errors import FathomError
from fathom.quant.scheme import Packed, Scheme, nbytes
from fathom.quant.schemes import SCHEMES, scheme_named

NAMES = list(SCHEMES)
SIZES = st.tuples(st.integers(1, 40), st.integers(1, 200))


def unpack(scheme: Scheme, packed: Packed, weight: Tensor) -> Tensor:
    return scheme.dequantize(packed, tuple(weight.shape), torch.float32)


def drawn(shape: tuple[int, int], seed: int, size: float = 1.0) -> Tensor:
    """Weights of which some are zero, some rows all of them, and some large."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator) * size * torch.rand(shape[0], 1, generator=generator) ** 4
    return weight * (torch.rand(shape, generator=generator) > 0.1)


@pytest.mark.parametrize("name", ["int8", "int4", "nf4-single"])
@given(shape=SIZES, seed=st.integers(0, 2**31), power=st.integers(-12, 5))
@settings(max_examples=60)
def test_packing_what_was_unpacked_changes_nothing(name: str, shape: tuple[int, int], seed: int, power: int) -> None:
    """Identity C13: numbers, codes and scales, to the bit."""
    scheme, weight = SCHEMES[name], drawn(shape, seed, 10.0**power)
    once = scheme.quantize(weight)
    numbers = unpack(scheme, once, weight)
    again = scheme.quantize(numbers)
    assert torch.equal(unpack(scheme, again, weight), numbers)
    assert all(torch.equal(again[field], once[field]) for field in scheme.fields)


@pytest.mark.parametrize("shape", [(128, 256), (37, 101)])
def test_with_double_quantisation_the_codes_stay_and_the_scales_nearly(shape: tuple[int, int]) -> None:
    """The scales' mean is computed again from rounded scales; they change by one step at most."""
    scheme, weight = SCHEMES["nf4"], torch.randn(shape)
    once = scheme.quantize(weight)
    numbers = unpack(scheme, once, weight)
    again = scheme.quantize(numbers)
    assert torch.equal(again["codes"], once["codes"])
    step = 0.0141 * once["scale_ranges"].max()  # the largest distance of two neighbours in DYNAMIC
    assert (unpack(scheme, again, weight) - numbers).abs().max() <= step


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(128, 128), (256, 96), (1, 1), (3, 33), (5, 172), (7, 63), (260, 65)])
def test_packed_tensors_are_as_large_as_declared(name: str, shape: tuple[int, int]) -> None:
    scheme, weight = SCHEMES[name], torch.randn(shape)
    packed, empty = scheme.quantize(weight), scheme.empty(shape)
    assert list(packed) == list(empty) == list(scheme.fields)
    assert {f: (x.shape, x.dtype) for f, x in packed.items()} == {f: (x.shape, x.dtype) for f, x in empty.items()}
    assert all(x.is_contiguous() and x.untyped_storage().nbytes() == x.nbytes for x in packed.values())
    assert unpack(scheme, packed, weight).shape == weight.shape


@pytest.mark.parametrize(
    "name, expected", [("int8", 8.5), ("int4", 4.5), ("nf4-single", 4.5), ("nf4", 4 + 8 / 64 + 32 / (64 * 256))]
)
def test_bytes_are_numbers_and_scales(name: str, expected: float) -> None:
    """4.127 bits of NF4: QLoRA, section 3. The mean of the scales is 4 bytes more for a whole matrix."""
    scheme = SCHEMES[name]
    mean = 4 if name == "nf4" else 0
    assert scheme.bits == expected
    assert nbytes(scheme.quantize(torch.randn(512, 1024))) == 512 * 1024 * expected / 8 + mean


@pytest.mark.parametrize("name", NAMES)
def test_blocks_of_zeros_are_zeros(name: str) -> None:
    weight = torch.randn(6, 128)
    weight[1], weight[3, 64:] = 0, 0
    numbers = unpack(SCHEMES[name], SCHEMES[name].quantize(weight), weight)
    assert not numbers[1].any() and not numbers[3, 64:].any() and numbers[0].any()
    assert not unpack(SCHEMES[name], SCHEMES[name].quantize(torch.zeros(2, 70)), torch.zeros(2, 70)).any()


@pytest.mark.parametrize("name, most", [("int8", 0.006), ("int4", 0.09), ("nf4", 0.096), ("nf4-single", 0.096)])
@pytest.mark.parametrize("width", [64, 256, 172])
def test_the_error_on_normal_weights(name: str, most: float, width: int) -> None:
    weight = torch.randn(400, width) / 50
    numbers = unpack(SCHEMES[name], SCHEMES[name].quantize(weight), weight)
    assert 0.7 * most < (numbers - weight).norm() / weight.norm() < most


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floats_are_packed_as_fp32_and_rounded_once(name: str, dtype: torch.dtype) -> None:
    scheme, weight = SCHEMES[name], torch.randn(9, 80).to(dtype)
    packed, exact = scheme.quantize(weight), scheme.quantize(weight.float())
    assert all(torch.equal(packed[field], exact[field]) for field in scheme.fields)
    numbers = scheme.dequantize(packed, (9, 80), dtype)
    assert numbers.dtype == dtype and torch.equal(numbers, unpack(scheme, packed, weight).to(dtype))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_number_is_refused(name: str, value: float) -> None:
    weight = torch.randn(4, 70)
    weight[2, 65] = value
    with pytest.raises(FathomError, match=f"found {value} at row 2, column 65; expected finite"):
        SCHEMES[name].quantize(weight)


@pytest.mark.parametrize("name, value", [("int8", 1e7), ("int4", -6e5)])
def test_a_scale_that_does_not_fit_in_16_bits_is_refused(name: str, value: float) -> None:
    with pytest.raises(FathomError, match=r"found weights so large .* choose nf4"):
        SCHEMES[name].quantize(torch.full((1, 32), value))


def test_an_unknown_name_is_refused_with_those_near() -> None:
    with pytest.raises(FathomError, match=r"quantize is 'nf-4'; did you mean nf4.* Choose one of int8"):
        scheme_named("nf-4")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(8, 128), (5, 172), (7, 63)])
def test_levels_and_scales_are_the_numbers(name: str, shape: tuple[int, int]) -> None:
    """What a block shows is what is computed with: level * scale, to the bit, in the order of the weights."""
    scheme, weight = SCHEMES[name], torch.randn(shape)
    packed = scheme.quantize(weight)
    codes, scales = scheme.blocks(packed)
    values = scheme.levels[codes] * scales[:, None]
    padded = values.view(shape[0], -1)[:, : shape[1]] if name.startswith("int") else values.flatten()[: weight.numel()]
    assert torch.equal(padded.reshape(shape), unpack(scheme, packed, weight))
    assert codes.shape[1] == scheme.size and torch.equal(scheme.levels.sort().values, scheme.levels)


@pytest.mark.parametrize("name", NAMES)
def test_smaller_blocks_are_nearer_and_cost_more(name: str) -> None:
    kind, weight = type(SCHEMES[name]), torch.randn(16, 1024)
    errors = []
    for size in (16, 64, 256):
        scheme = kind(size)
        packed = scheme.quantize(weight)
        assert {f: (x.shape, x.dtype) for f, x in packed.items()} == {
            f: (x.shape, x.dtype) for f, x in scheme.empty((16, 1024)).items()
        }
        assert nbytes(packed) == pytest.approx(weight.numel() * scheme.bits / 8, rel=0.01)
        errors.append((unpack(scheme, packed, weight) - weight).norm())
    assert errors[0] < errors[1] < errors[2]
    assert kind().size == SCHEMES[name].size and kind().bits == SCHEMES[name].bits
