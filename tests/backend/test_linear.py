"""The layer in panels by itself: what it refuses, and what it says of itself."""

import pytest
import torch
from torch import Tensor, nn

from fathom.backend.linear import PanelLinear
from fathom.errors import FathomError
from fathom.native.build import library
from fathom.native.panels import Arena, from_float, panel_bytes

pytestmark = pytest.mark.skipif(library("panels") is None, reason="no C++ compiler")


def layer(dtype: torch.dtype = torch.float32) -> tuple[nn.Linear, PanelLinear]:
    plain = nn.Linear(32, 20).to(dtype)
    kind = "bf16" if dtype == torch.bfloat16 else "fp32"
    return plain, PanelLinear(from_float(plain.weight, plain.bias, Arena(panel_bytes(kind, (20, 32)))), plain.bias)


@pytest.mark.parametrize("x", [torch.zeros(2, 64), torch.zeros(2, 31), torch.zeros(16, 2), torch.tensor(1.0)], ids=str)
def test_x_of_another_width_is_refused(x: Tensor) -> None:
    with pytest.raises(FathomError, match=r"expected \(\.\.\., 32\)"):
        layer()[1](x)


@pytest.mark.parametrize(
    "x", [torch.zeros(2, 32).half(), torch.zeros(2, 32).double(), torch.zeros(2, 32, device="meta")]
)
def test_x_of_another_kind_is_refused(x: Tensor) -> None:
    with pytest.raises(FathomError, match="expected fp32 or bf16 on a CPU"):
        layer()[1](x)


@pytest.mark.parametrize("shape", [(0, 32), (2, 0, 32), (32,), (3, 2, 32)])
def test_x_of_any_shape(shape: tuple[int, ...]) -> None:
    plain, panels = layer()
    x = torch.randn(shape)
    assert panels(x).shape == plain(x).shape
    assert torch.allclose(panels(x), plain(x), atol=1e-5)
    strided = torch.randn(32, 4).T
    assert torch.allclose(panels(strided), plain(strided), atol=1e-5)


def test_no_gradient_is_lost_in_silence() -> None:
    x = torch.randn(2, 32, requires_grad=True)
    with pytest.raises(FathomError, match="gives no gradient"):
        layer()[1](x)
    with torch.no_grad():
        assert not layer()[1](x).requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_it_holds_goes_by_the_names_of_the_plain_layer(dtype: torch.dtype) -> None:
    plain, panels = layer(dtype)
    expected, actual = plain.state_dict(), panels.state_dict()
    assert actual.keys() == expected.keys()
    for name, x in expected.items():
        assert actual[name].dtype == x.dtype
        assert torch.equal(actual[name], x)
