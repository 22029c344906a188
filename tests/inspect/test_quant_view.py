"""What packing does to weights: blocks as an independent reading of the bytes has them, C13 and its fault, the loss."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fathom.inspect import quant_view
from fathom.inspect.identities import broken
from fathom.inspect.quant_view import packing_is_stable, there_and_back
from fathom.model.config import ModelConfig
from fathom.quant.model import quantize_model
from fathom.quant.nf4 import NF4_VALUES
from fathom.quant.schemes import SCHEMES
from tests.architectures import ARCHITECTURES, LLAMA, ids_for, model_of

every_scheme = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
every_architecture = pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())


def by_hand(name: str, packed: dict[str, torch.Tensor], block: int) -> np.ndarray:
    """The numbers of one block, read from its bytes without the package's unpacking."""
    codes = packed["codes"].numpy()
    if name == "int8":
        return codes.reshape(-1, 32)[block].astype(np.float32) * np.float32(packed["scales"].numpy().ravel()[block])
    if name == "int4":
        byte = codes.reshape(-1, 16)[block]
        q = np.concatenate((byte % 16, byte // 16)).astype(np.float32) - 8
        return q * np.float32(packed["scales"].numpy().ravel()[block])
    byte = codes[block]
    return NF4_VALUES.numpy()[np.stack((byte // 16, byte % 16), -1).ravel()] * packed["scales"].numpy()[block]


@pytest.mark.parametrize("name", ["int8", "int4", "nf4-single"])
@pytest.mark.parametrize("shape", [(6, 128), (5, 70)])
def test_a_block_is_what_its_bytes_say(name: str, shape: tuple[int, int]) -> None:
    scheme, weight = SCHEMES[name], torch.randn(shape)
    shown = there_and_back(weight, scheme)
    weights, _, _, unpacked = shown.in_blocks
    for block in range(len(weights)):
        row, column = scheme.start(block, shape[1])
        assert weights[block, 0] == weight[row, column]
        own = weights[block] != 0  # of a last block, without what fills it
        assert np.array_equal(unpacked[block][own].numpy(), by_hand(name, shown.packed, block)[own.numpy()])


@every_scheme
@pytest.mark.parametrize("shape", [(8, 128), (5, 70), (3, 33)])
def test_c13_holds(scheme, shape: tuple[int, int]) -> None:
    assert not broken("packing_is_stable", packing_is_stable(there_and_back(torch.randn(shape), scheme)))


def test_c13_holds_where_rounded_scales_are_not_positive() -> None:
    """NF4 rounds its scales about their mean: that of a block of tiny weights may come back negative."""
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    weight[::2] *= 1e-4
    shown = there_and_back(weight, SCHEMES["nf4"])
    assert (shown.in_blocks[1] <= 0).any()
    assert not broken("packing_is_stable", packing_is_stable(shown))


@pytest.mark.parametrize("name", ["int4", "nf4", "nf4-single"])
def test_the_wrong_order_of_nibbles_is_red(name: str) -> None:
    shown = there_and_back(torch.randn(8, 128), SCHEMES[name], nibbles_swapped=True)
    assert broken("packing_is_stable", packing_is_stable(shown))[:1] == ["packed again, the codes are the same"]


def test_a_byte_too_many_is_red() -> None:
    shown = there_and_back(torch.randn(8, 128), SCHEMES["int8"])
    shown.packed["scales"] = shown.packed["scales"].float()
    assert broken("packing_is_stable", packing_is_stable(shown)) == ["bytes = packed + scales"]


def test_which_4_bits_are_nearer_depends_on_the_weights_and_the_block() -> None:
    """Levels where the weights are: NF4 for normal weights in its blocks of 64 and larger; int4, one of whose levels is
    the largest weight with its sign, in small blocks and for weights that are spread evenly."""
    normal, even = torch.randn(64, 1024), torch.rand(64, 1024) * 2 - 1
    small, large = quant_view.SIZES.index(16), quant_view.SIZES.index(64)
    int4, nf4 = (quant_view.errors_over_size(normal, SCHEMES[name])[0] for name in ("int4", "nf4-single"))
    assert int4[small] < nf4[small] and (nf4[large:] < int4[large:]).all()
    int4, nf4 = (quant_view.errors_over_size(even, SCHEMES[name])[0] for name in ("int4", "nf4-single"))
    assert (int4 < nf4).all()


@every_scheme
def test_larger_blocks_cost_less_and_err_more(scheme) -> None:
    error, bits = quant_view.errors_over_size(torch.randn(32, 1024), scheme)
    assert (error.diff() > 0).all() and (bits.diff() < 0).all()
    usual = quant_view.SIZES.index(scheme.size)
    assert bits[usual] == pytest.approx(scheme.bits, rel=1e-3)
    error, bits = quant_view.errors_over_size(torch.randn(64, 48), scheme)
    if scheme.name.startswith("int"):  # rows of 48 are filled: to 64 in blocks of 32, and no row is made of 128
        assert (
            bits[2] == pytest.approx(scheme.bits * 64 / 48) and error[4:].isnan().all() and error[:4].isfinite().all()
        )
    else:
        assert error.isfinite().all()


def test_counts() -> None:
    shown = there_and_back(torch.randn(16, 128), SCHEMES["nf4"])
    weights, scales, codes, unpacked = shown.in_blocks
    assert quant_view.levels_used(codes, 16).sum() == 16 * 128
    counts = quant_view.histogram(quant_view.in_scales(weights, scales), -1.0, 1.0, 64)
    assert counts.sum() == 16 * 128
    shown.weight[3, 7] = 40.0
    assert quant_view.outliers(shown.weight, 2)[0].tolist() == [3, 7]
    weights = SCHEMES["nf4"].in_blocks(shown.weight)
    assert int(quant_view.crest(weights).argmax()) == (3 * 128 + 7) // 64
    errors = quant_view.block_errors(weights, weights)
    assert errors.shape == (32,) and not errors.any() and unpacked.shape == weights.shape


@every_architecture
def test_one_layer_at_a_time(config: ModelConfig) -> None:
    """The loss with one layer packed is that of a model whose weight was replaced by what is unpacked."""
    model, ids = model_of(config), ids_for(config, 1, 12)
    names = [*quant_view.packable(model)][:2]
    if not names:
        assert not config.n_layer
        return
    before = {name: x.clone() for name, x in model.state_dict().items()}
    changes = quant_view.losses_one_by_one(model, ids, names, SCHEMES["int4"])
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    weight = model.get_submodule(names[0]).weight
    with torch.no_grad():
        plain = F.cross_entropy(model(ids)[0, :-1], ids[0, 1:])
        weight.copy_(there_and_back(weight, SCHEMES["int4"]).unpacked)
        changed = F.cross_entropy(model(ids)[0, :-1], ids[0, 1:])
    assert float(changes[0]) == pytest.approx(float(changed - plain), abs=1e-5)


def test_packing_a_packed_model_again_changes_nothing() -> None:
    model, ids = model_of(LLAMA), ids_for(LLAMA, 1, 12)
    quantize_model(model, "int8")
    names = [*quant_view.packable(model)]
    assert not quant_view.losses_one_by_one(model, ids, names[:3], SCHEMES["int8"]).any()
    assert quant_view.error_in(torch.full((2, 32), 1e7), "int8") != quant_view.error_in(torch.ones(2, 32), "int8")
