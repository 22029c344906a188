"""Native attention, reading keys and values in place from a cache, against the model's own `attend`."""

import pytest
import torch
from torch import Tensor

from fathom.model.attention import attend
from fathom.native.kernels import attention

SIZES = [  # b, h, g, t, s, c: few and many query heads per key head, one query and many, odd widths, several blocks
    (1, 8, 2, 5, 9, 64),
    (2, 4, 4, 17, 17, 32),
    (1, 32, 1, 3, 100, 128),
    (3, 6, 3, 1, 70, 33),
    (1, 10, 2, 40, 200, 16),
    (2, 32, 4, 33, 33, 48),
    (1, 3, 1, 16, 300, 2),
]


def random_inputs(sizes: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """q with the strides of Attention.heads, keys and values with those of a cache that is not full."""
    b, h, g, t, s, c = sizes
    store = torch.randn(2, b, g, s + 7, c).to(dtype)
    return torch.randn(b, t, h * c).to(dtype).unflatten(-1, (h, c)).transpose(1, 2), *store[:, :, :, :s].unbind()


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 3e-6), (torch.bfloat16, 2e-2)], ids=["fp32", "bf16"])
def test_equals_attend(isa: str, sizes: tuple[int, ...], dtype: torch.dtype, within: float) -> None:
    q, k, v = random_inputs(sizes, dtype)
    z = attention(q, k, v)
    assert z is not None and z.dtype == dtype and z.shape == q.shape
    assert (z.float() - attend(q.float(), k.float(), v.float(), None, 0.0)).abs().max() < within


def test_large_scores_do_not_overflow(isa: str) -> None:
    """With scores in the thousands, one key gets all the weight."""
    q, k, v = random_inputs((1, 4, 2, 20, 20, 64), torch.float32)
    expected = attend(50 * q, 20 * k, v, None, 0.0)
    z = attention(50 * q, 20 * k, v)
    assert z is not None and torch.allclose(z, expected, atol=1e-4)


def test_other_strides_are_made_contiguous(isa: str) -> None:
    q, k, v = random_inputs((2, 4, 2, 6, 6, 16), torch.float32)
    other = v.transpose(1, 2).contiguous().transpose(1, 2)
    z = attention(q, k, other)
    assert z is not None and torch.allclose(z, attend(q, k, v, None, 0.0), atol=1e-5)


@pytest.mark.parametrize("b", [1, 2])
@pytest.mark.parametrize("g", [1, 2])
@pytest.mark.parametrize("s", [1, 5])
@pytest.mark.parametrize("c", [1, 8])
def test_the_stride_of_a_dimension_of_size_1_is_not_read(b: int, g: int, s: int, c: int) -> None:
    """Keys as `Attention.heads` cuts them: with one head, one row or one position, torch calls them contiguous although
    their strides are not those of a contiguous tensor."""
    q, k, v = (torch.randn(b, s, n * c).unflatten(-1, (n, c)).transpose(1, 2) for n in (4, g, g))
    z = attention(q, k, v)
    assert z is not None and torch.allclose(z, attend(q, k, v, None, 0.0), atol=1e-5)


def test_returns_none_for_gradients_and_other_formats() -> None:
    q, k, v = random_inputs((1, 2, 2, 3, 3, 8), torch.float32)
    assert attention(q.requires_grad_(), k, v) is None
    assert attention(q.detach().double(), k.double(), v.double()) is None
    assert attention(q.detach().to("meta"), k.to("meta"), v.to("meta")) is None
