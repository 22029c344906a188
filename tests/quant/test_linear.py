"""QuantLinear is nn.Linear with the unpacked matrix, forward and backward, and keeps nothing but the packed one."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fathom.errors import FathomError
from fathom.quant.linear import QuantLinear
from fathom.quant.schemes import SCHEMES

NAMES = list(SCHEMES)


def pair(name: str, bias: bool = True, shape: tuple[int, int] = (48, 80)) -> tuple[QuantLinear, nn.Linear]:
    """A packed layer, and a float one of exactly its numbers."""
    plain = nn.Linear(shape[1], shape[0], bias=bias)
    layer = QuantLinear.quantized(plain.weight, plain.bias, SCHEMES[name])
    plain.weight.data = layer.weight
    return layer, plain


def gradient(layer: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().clone().requires_grad_()
    y = layer(x)
    (y * torch.arange(y.shape[-1], device=y.device)).sum().backward()
    assert x.grad is not None
    return y.detach(), x.grad


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(80,), (5, 80), (2, 3, 80)])
def test_it_is_the_linear_layer_of_the_unpacked_matrix(name: str, bias: bool, size: tuple[int, ...]) -> None:
    layer, plain = pair(name, bias)
    for ours, theirs in zip(gradient(layer, x := torch.randn(size)), gradient(plain, x)):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_it_computes_in_the_dtype_of_its_input(name: str, dtype: torch.dtype) -> None:
    layer, plain = pair(name)
    plain, x = plain.to(dtype), torch.randn(7, 80, dtype=dtype)
    y, grad = gradient(layer, x)
    assert y.dtype == grad.dtype == dtype
    torch.testing.assert_close((y, grad), gradient(plain, x))


@pytest.mark.parametrize("name", NAMES)
def test_it_follows_autocast_as_linear_does(name: str) -> None:
    layer, plain = pair(name)
    x = torch.randn(7, 80)
    with torch.autocast("cpu", torch.bfloat16):
        (y, grad), expected = gradient(layer, x), gradient(plain, x)
    assert y.dtype == torch.bfloat16 and grad.dtype == torch.float32
    torch.testing.assert_close((y, grad), expected)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_input_gets_a_gradient(name: str) -> None:
    layer, _ = pair(name)
    before = {field: tensor.clone() for field, tensor in layer.packed.items()}
    gradient(layer, torch.randn(3, 80))
    assert all(p.grad is None and not p.requires_grad for p in layer.parameters())
    assert [n for n, _ in layer.named_parameters()] == ["bias"]
    assert all(torch.equal(layer.packed[field], tensor) for field, tensor in before.items())


def test_a_bias_that_is_set_free_gets_the_gradient_of_a_linear_layer() -> None:
    layer, plain = pair("int8")
    assert layer.bias is not None
    layer.bias.requires_grad_()
    gradient(layer, x := torch.randn(2, 3, 80))
    gradient(plain, x)
    torch.testing.assert_close(layer.bias.grad, plain.bias.grad)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", [None, "aot_eager"], ids=["eager", "compiled"])
def test_nothing_is_kept_for_backward(name: str, backend: str | None) -> None:
    """The float matrix would be 48 x 80; a plain layer of frozen weights does keep it."""
    layer, plain = pair(name)
    kept: list[int] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x.numel())
        return x

    run = torch.compile(layer, fullgraph=True, backend=backend) if backend else layer
    expected = gradient(layer, x := torch.randn(5, 80))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        torch.testing.assert_close(gradient(run, x), (expected[0], expected[1]))
        seen = [size for size in kept if size >= 48 * 80 // 2 and size != 5 * 48]
        kept.clear()
        gradient(plain.requires_grad_(False), x)
    assert not seen and 48 * 80 in kept


@pytest.mark.parametrize("name", NAMES)
def test_it_compiles_without_a_break_also_without_gradients(name: str) -> None:
    layer, _ = pair(name)
    x = torch.randn(3, 80)
    with torch.no_grad():
        assert torch.equal(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))


@pytest.mark.parametrize("name", NAMES)
def test_its_state_goes_into_another_one_and_a_copy_stands_alone(name: str) -> None:
    layer, _ = pair(name)
    other, _ = pair(name)
    assert set(layer.state_dict()) == {*SCHEMES[name].fields, "bias"}
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.weight, layer.weight)
    clone = copy.deepcopy(layer)
    clone.get_buffer("codes").zero_()
    assert torch.equal(other.weight, layer.weight) and not torch.equal(clone.weight, layer.weight)
    blank = QuantLinear(SCHEMES[name], (48, 80), SCHEMES[name].empty((48, 80)), torch.empty(48, device="meta"))
    blank.load_state_dict(layer.state_dict(), assign=True)
    assert torch.equal(blank(x := torch.randn(2, 80)), layer(x))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", [nn.Module.half, nn.Module.bfloat16, nn.Module.double], ids=lambda f: f.__name__)
def test_a_change_of_dtype_does_not_round_the_scales(name: str, change: Callable[[nn.Module], nn.Module]) -> None:
    layer, _ = pair(name)
    exact = layer.weight
    change(layer)
    assert torch.equal(layer.weight, exact)
    assert layer.bias is not None and layer.bias.dtype != torch.float32


def test_it_moves_between_devices() -> None:
    layer, _ = pair("nf4")
    moved = layer.to("meta", torch.bfloat16)
    assert {x.device.type for x in moved.state_dict().values()} == {"meta"}
    assert moved(torch.randn(3, 80, device="meta", dtype=torch.bfloat16)).shape == (3, 48)
    if torch.cuda.is_available():
        there, x = pair("nf4")[0].cuda(), torch.randn(3, 80)
        torch.testing.assert_close(there(x.cuda()).cpu(), x @ there.weight.cpu().T + there.bias.cpu())


def test_packed_tensors_of_another_shape_or_format_are_refused() -> None:
    packed = SCHEMES["int8"].quantize(torch.randn(48, 80))
    with pytest.raises(
        FathomError, match=r"found codes int8 \(48, 3, 32\).*expected codes int8 \(48, 4, 32\).*48 x 128"
    ):
        QuantLinear(SCHEMES["int8"], (48, 128), packed)
    with pytest.raises(FathomError, match=r"expected codes uint8 \(60, 32\), scale_codes.* in nf4; pack them again"):
        QuantLinear(SCHEMES["nf4"], (48, 80), packed)
