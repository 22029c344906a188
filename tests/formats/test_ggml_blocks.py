"""Blocks of weights: every bit is what ggml's own Python reference makes of the same bytes, and of the same numbers."""

import hashlib
import warnings

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fathom.errors import FathomError
from fathom.formats import ggml_blocks
from fathom.formats.ggml_blocks import IDS, OTHERS, TYPES, NumberType, number_type, packed, unpacked
from tests.formats import ggml_library

quants = pytest.importorskip("gguf.quants", reason="needs the extra `peers`")
constants = pytest.importorskip("gguf.constants", reason="needs the extra `peers`")

ACTIVATIONS = ("Q8_1", "Q8_K")  # which gguf-py does not read
BLOCKS = [kind for kind in TYPES.values() if kind.unpack and kind.name not in ACTIVATIONS]
ODD_SCALES = [
    0x0000,
    0x8000,
    0x0001,
    0x83FF,
    0x7BFF,
    0xFBFF,
    0x7C00,
    0xFC00,
    0x7E00,
    0x7C01,
]  # 0, denormal, max, inf, nan


def theirs(data: NDArray[np.uint8], kind: NumberType) -> NDArray[np.float32]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # infinite scales times zero
        return quants.dequantize(data, constants.GGMLQuantizationType(IDS[kind.name])).reshape(-1)


def same_bits(ours: NDArray[np.float32], reference: NDArray[np.float32]) -> bool:
    """Equal to the bit, where one NaN is like another."""
    equal = (ours.view(np.uint32) == reference.view(np.uint32)) | (np.isnan(ours) & np.isnan(reference))
    return len(ours) == len(reference) and bool(equal.all())


def test_the_table_is_ggml_s() -> None:
    known = {id.value: (id.name, *constants.GGML_QUANT_SIZES[id]) for id in constants.GGMLQuantizationType}
    known[9] = ("Q8_1", 32, 36)  # 40 in gguf-py, from before its scales were fp16
    assert {id: (kind.name, kind.size, kind.nbytes) for id, kind in TYPES.items()}.items() <= known.items()
    assert {id: name for id, (name, _, _) in known.items() if id not in TYPES} == OTHERS


@pytest.mark.parametrize("kind", BLOCKS, ids=lambda kind: kind.name)
def test_ten_thousand_random_blocks(kind: NumberType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ggml_blocks, "SLICE", 3 * 256 * 7)  # several slices, the last one shorter
    chance = np.random.default_rng(0)
    data = chance.integers(0, 256, (10_000, kind.nbytes), dtype=np.uint8)
    blocks = data.view(kind.layout)[:, 0]
    fields = [name for name in ("scale", "offset") if name in (kind.layout.names or ())]
    for i, field in enumerate(fields):  # every pair of odd ones
        odd = np.array(ODD_SCALES, "<u2").repeat(10) if i else np.tile(np.array(ODD_SCALES, "<u2"), 10)
        blocks[field][:100] = odd.view("<f2")
    reference = theirs(data, kind)
    odd_ones = np.isnan(reference).any() and np.isinf(reference).any()
    assert (odd_ones or not fields) and np.isfinite(reference).mean() > 0.8
    assert same_bits(unpacked(torch.from_numpy(data.reshape(-1)), kind).numpy(), reference)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_scale_times_q(name: str) -> None:
    kind, chance = TYPES[IDS[name]], np.random.default_rng(2)
    data = chance.integers(0, 256, (1000, kind.nbytes), dtype=np.uint8)
    layout = {"Q8_1": (2, "<f2", 4), "Q8_K": (4, "<f4", 4)}[name]  # bytes and type of the scale, first byte of the q
    scale, q = data[:, : layout[0]].copy().view(layout[1]), data[:, layout[2] :].view(np.int8)[:, : kind.size]
    with np.errstate(all="ignore"):
        expected = scale.astype(np.float32) * q.astype(np.float32)
    assert same_bits(unpacked(torch.from_numpy(data.reshape(-1)), kind).numpy(), expected.reshape(-1))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_of_ggml_are_read(name: str) -> None:
    """What its quantiser makes, which it does not dequantise of Q8_1 itself."""
    kind = TYPES[IDS[name]]
    whole = numbers()[:2048].reshape(-1, kind.size)
    made = ggml_library.blocks(kind, whole)
    ours = unpacked(torch.from_numpy(made), kind).numpy()
    assert ggml_library.sizes(kind) == (kind.size, kind.nbytes)
    assert name == "Q8_1" or same_bits(ours, ggml_library.numbers(kind, made))
    error = np.abs(ours.reshape(whole.shape) - whole).max(axis=1)
    assert (error <= np.abs(whole).max(axis=1) / 127 + 6e-8 * 128).all()
    q, sums = made.view(kind.layout)["q"].astype(np.float32), made.view(kind.layout)["sums"]
    assert name == "Q8_1" or np.array_equal(sums, q.reshape(-1, 16, 16).sum(axis=2))


def numbers() -> NDArray[np.float32]:
    """(3000, 64): rows of many magnitudes, zeros of both signs, halves that round either way, one-sided rows."""
    chance = np.random.default_rng(1)
    x = chance.standard_normal((3000, 64)) * 10 ** chance.uniform(-9, 4, (3000, 1))
    x[0], x[1, ::2] = 0, -0.0
    x[2] = np.arange(64) * 0.5 - 16
    x[3, :32] = 127 - np.arange(32) * 2.5
    x[4], x[5] = np.abs(x[4]), -np.abs(x[5])
    return x.astype(np.float32)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_0", "Q5_1"])
def test_packed_as_the_reference_packs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ggml_blocks, "SLICE", 32 * 17)
    ours = np.concatenate(list(packed(torch.from_numpy(numbers()), TYPES[IDS[name]])))
    reference = quants.quantize(numbers(), constants.GGMLQuantizationType(IDS[name]))
    assert np.array_equal(ours, reference.reshape(-1).view(np.uint8))


def groups() -> NDArray[np.float32]:
    """(3100, 256): blocks of many magnitudes, of one sign, with heavy tails, far from 0, flat in part, nearly 0."""
    chance = np.random.default_rng(1)
    x = chance.standard_normal((3100, 256)) * 10 ** chance.uniform(-8, 3, (3100, 1))
    x[100:1100] = chance.standard_t(3, (1000, 256)) * 0.02
    x[1100:2000] = chance.standard_normal((900, 256)) * 0.02 + 0.05
    x[0], x[1, ::2], x[2], x[3], x[4, :32] = 0, -0.0, np.abs(x[2]), -np.abs(x[3]), 0
    x[5, 32:64], x[6, :64], x[7], x[8], x[9] = 0.37, -0.2, 1, -1, np.arange(256) * 0.5 - 16
    x[10, 5], x[11, :128], x[12] = 100, x[11, :128] * 1e-8, x[12] * 1e-12
    return x.astype(np.float32)


SEARCHED = ("Q4_K", "Q5_K", "Q6_K")


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", SEARCHED)
def test_searched_as_ggml_searches(name: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte is that of ggml's own quantiser."""
    monkeypatch.setattr(ggml_blocks, "SLICE", 256 * 17)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    kind = TYPES[IDS[name]]
    ours = np.concatenate(list(packed(torch.from_numpy(groups()), kind))).reshape(-1, kind.nbytes)
    assert np.array_equal(ours, ggml_library.blocks(kind, groups()).reshape(ours.shape))


RECORDED = {  # SHA-256 of what quantize_row_*_ref of ggml makes of `whole_numbers`
    "Q4_K": "16e44be4d03fcf921f5f8e7d0390d838245d548a2957fd3978b1c1e7295b7a95",
    "Q5_K": "c5e3e488653361221563f9af9faaa951497f042db8c72e2d1cd5b228e5aa730a",
    "Q6_K": "2699513bbb48469884e7d645da535da18fd4f7beb2a5365c8757626c183e5082",
}


def whole_numbers() -> NDArray[np.float32]:
    """(64, 256): the same on every machine; cubes, so that most are small."""
    steps = np.arange(64 * 256, dtype=np.uint64) * 2654435761 % 65521
    return ((steps.astype(np.float64) / 65521 - 0.4) ** 3).astype(np.float32).reshape(64, 256)


@pytest.mark.parametrize("name", SEARCHED)
def test_searched_as_was_recorded(name: str) -> None:
    ours = np.concatenate(list(packed(torch.from_numpy(whole_numbers()), TYPES[IDS[name]])))
    assert hashlib.sha256(ours.tobytes()).hexdigest() == RECORDED[name]


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_floats_of_the_same_type_are_not_touched(name: str) -> None:
    """Every pattern of 16 bits, NaNs with their payload too."""
    patterns = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
    kind = TYPES[IDS[name]]
    ours = np.concatenate(list(packed(patterns.view(getattr(torch, kind.dtype)), kind)))
    assert np.array_equal(ours.view(np.int16), patterns.numpy())


@pytest.mark.parametrize(
    "name, value",
    [("F16", 7e4), ("Q8_0", np.inf), ("Q4_0", np.nan), ("Q4_0", 1e6), ("Q5_0", -np.inf), ("Q5_1", -1e6)]
    + [(name, value) for name in SEARCHED for value in (np.inf, -np.inf, np.nan, 1e9, -1e9, 1e30, -3e38)],
)
def test_what_a_type_cannot_hold_is_refused(name: str, value: float) -> None:
    x = torch.zeros(512)
    x[40] = value
    with pytest.raises(FathomError, match="it holds"):
        list(packed(x, TYPES[IDS[name]]))


@pytest.mark.parametrize(
    "id, says", [(16, "IQ2_XXS"), (16, "IQ2_XXS"), (40, "NVFP4"), (4, "4"), (1 << 31, "2147483648")]
)
def test_other_types_are_named_with_those_there_are(id: int, says: str) -> None:
    with pytest.raises(FathomError, match=f"of type {says}; expected one of F32, F16, BF16, Q8_0, Q4_0, Q4_1"):
        number_type(id)
