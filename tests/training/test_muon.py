"""Muon against the singular value decomposition and against steps written out by hand."""

import copy

import pytest
import torch
from torch import Tensor

from fathom.errors import FathomError
from fathom.training.optimizers import muon
from fathom.training.optimizers.muon import Muon, orthogonalize, orthogonalize_all, step_scale, working_dtype

SHAPES = [(16, 16), (8, 32), (32, 8), (64, 65), (1, 5)]


def polar(m: Tensor) -> Tensor:
    """U V^T, the nearest orthogonal matrix."""
    u, _, v = torch.linalg.svd(m, full_matrices=False)
    return u @ v


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_go_to_one_and_directions_stay(shape: tuple[int, int]) -> None:
    u, _, v = torch.linalg.svd(torch.randn(3, *shape, dtype=torch.float64), full_matrices=False)
    m = u * torch.logspace(-2, 0, u.shape[-1]).double() @ v  # the largest is 100 times the smallest
    done = orthogonalize(m)
    assert done.shape == m.shape
    values = torch.linalg.svdvals(done)
    assert values.min() >= 0.68 and values.max() <= 1.21
    torch.testing.assert_close(polar(done), polar(m))


def test_the_polynomial_is_the_published_one() -> None:
    value = x = 0.3
    for _ in range(5):
        value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
    m = torch.diag(torch.tensor([x, (1 - x**2) ** 0.5], dtype=torch.float64))  # of norm 1, so that nothing is rescaled
    assert orthogonalize(m[None])[0, 0, 0].item() == pytest.approx(value, rel=1e-5)


def test_bf16_is_as_good_as_needed() -> None:
    m = torch.randn(2, 48, 96)
    near = orthogonalize(m.bfloat16()).float()
    torch.testing.assert_close(near, orthogonalize(m), atol=0.05, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_at_once_is_each_alone(dtype: torch.dtype) -> None:
    shapes = [*SHAPES, (8, 32), (32, 8), (16, 16)]
    matrices = [torch.randn(shape, dtype=dtype) for shape in shapes]
    for m, done in zip(matrices, orthogonalize_all(matrices, dtype)):
        torch.testing.assert_close(done, orthogonalize(m[None])[0])


def test_a_matrix_of_zeros_stays() -> None:
    assert not orthogonalize(torch.zeros(1, 4, 4)).any()


@pytest.mark.parametrize(("rows", "columns", "scale"), [(4, 4, 1), (4, 16, 1), (16, 4, 2), (9, 1, 3)])
def test_scale(rows: int, columns: int, scale: float) -> None:
    assert step_scale(rows, columns) == scale


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4)])
def test_steps_written_out(shape: tuple[int, int]) -> None:
    lr, beta, decay = 0.1, 0.9, 0.5
    weight = torch.nn.Parameter(torch.randn(shape, dtype=torch.float64))
    expected, mean = weight.detach().clone(), torch.zeros(shape, dtype=torch.float64)
    optimizer = Muon([weight], lr, beta, decay, dtype=torch.float64)
    for _ in range(3):
        weight.grad = gradient = torch.randn(shape, dtype=torch.float64)
        mean = beta * mean + (1 - beta) * gradient
        ahead = beta * mean + (1 - beta) * gradient
        tall = max(1, shape[0] / shape[1]) ** 0.5
        expected = expected * (1 - lr * decay) - lr * tall * orthogonalize(ahead[None])[0]
        optimizer.step()
        torch.testing.assert_close(weight.detach(), expected)


def test_decay_alone_shrinks() -> None:
    weight = torch.nn.Parameter(torch.ones(3, 3))
    weight.grad = torch.zeros(3, 3)
    Muon([weight], lr=0.1, weight_decay=0.2).step()
    torch.testing.assert_close(weight.detach(), torch.full((3, 3), 0.98))


def test_what_has_no_gradient_stays() -> None:
    still, moved = torch.nn.Parameter(torch.ones(3, 3)), torch.nn.Parameter(torch.ones(3, 3))
    moved.grad = torch.eye(3)
    Muon([still, moved], lr=0.1, weight_decay=0.2).step()
    assert (still == 1).all() and (moved != 1).any()


def test_resuming_from_its_state_is_bitwise_the_same() -> None:
    gradients = [[torch.randn(shape) for shape in SHAPES] for _ in range(4)]
    straight = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    optimizer = Muon(straight, lr=0.02, weight_decay=0.1)
    for step, drawn in enumerate(gradients):
        if step == 2:
            resumed = [torch.nn.Parameter(p.detach().clone()) for p in straight]
            second = Muon(resumed, lr=9.0)
            second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for p, gradient in zip(straight, drawn):
            p.grad = gradient.clone()
        optimizer.step()
        if step >= 2:
            for p, gradient in zip(resumed, drawn):
                p.grad = gradient.clone()
            second.step()
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed))


def test_vectors_are_refused_in_one_line() -> None:
    with pytest.raises(FathomError, match=r"shape \(3,\); it trains matrices"):
        Muon([torch.nn.Parameter(torch.ones(3))], lr=0.1)


@pytest.mark.parametrize("bf16", [True, False])
def test_it_orthogonalizes_in_bf16_unless_fp32_was_asked_for(bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "has_bf16", lambda device: bf16)
    cpu = torch.device("cpu")
    assert working_dtype("auto", cpu) == (torch.bfloat16 if bf16 else torch.float32)
    assert working_dtype("fp32", cpu) == torch.float32
