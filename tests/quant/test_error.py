"""The report says what the packed tensors are: bytes and errors worked out here by hand."""

import pytest
import torch

from fathom.model.config import ModelConfig
from fathom.model.transformer import Transformer
from fathom.quant.linear import QuantLinear
from fathom.quant.model import cost, costs, linears
from fathom.quant.schemes import SCHEMES

CONFIG = ModelConfig(vocab_size=31, context_length=16, d_model=64, n_layer=2, n_head=4, mlp="gelu", norm="rms")


def test_errors_of_a_matrix_whose_codes_are_known() -> None:
    """A scale of 1 / 127 and numbers that lie 0.4 of it beside a code."""
    weight = torch.zeros(1, 32)
    weight[0, :3] = torch.tensor([127.0, 3.4, -9.4]) / 127
    result = cost("w", weight, QuantLinear.quantized(weight, None, SCHEMES["int8"]))
    assert (result.name, result.parameters, result.nbytes, result.bits) == ("w", 32, 34, 8.5)
    scale = torch.tensor(1 / 127).half().item()
    wrong = (weight - torch.tensor([127.0, 3, -9] + [0.0] * 29) * scale).double()
    assert result.max_error == pytest.approx(wrong.abs().max().item(), rel=1e-5)
    assert result.relative_error == pytest.approx((wrong.norm() / weight.double().norm()).item(), rel=1e-5)


@pytest.mark.parametrize("name", SCHEMES)
def test_costs_of_a_model_that_stays_as_it_is(name: str) -> None:
    model = Transformer(CONFIG)
    measured = list(costs(model, name))
    assert [one.name for one in measured] == linears(model)
    assert all(one.bits == pytest.approx(SCHEMES[name].bits, abs=0.02) for one in measured)
    assert all(0 < one.relative_error < 0.12 and one.max_error > 0 for one in measured)


def test_all_zeros_are_kept_without_error() -> None:
    weight = torch.zeros(4, 64)
    result = cost("w", weight, QuantLinear.quantized(weight, None, SCHEMES["nf4"]))
    assert (result.max_error, result.relative_error) == (0, 0)
