"""Decompositions against NumPy's and the theorem of Eckart and Young; what singular values say against closed forms."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fathom.adapters.svd import (
    SVD,
    MarchenkoPastur,
    effective_rank,
    energy_rank,
    intruders,
    numerical_rank,
    overlap,
    principal_angles,
    random_product_spectrum,
    random_spectrum,
    sampled_svd,
    singular_values,
    stable_rank,
    svd,
    svd_of_product,
)
from fathom.errors import FathomError
from fathom.formats.safetensors_file import open_safetensors

SHAPES = [(30, 30), (40, 25), (25, 40), (50, 1), (1, 50)]


def numpy_values(matrix: Tensor) -> np.ndarray:
    return np.linalg.svd(matrix.double().numpy(), compute_uv=False)


def orthonormal(columns: Tensor) -> bool:
    return torch.allclose(columns.T @ columns, torch.eye(columns.shape[1]).to(columns), atol=1e-5)


def energy_error(w: Tensor, cut: Tensor, s: Tensor, rank: int) -> float:
    """|W - W_r|^2 against the sum of the squares that were left out, relative."""
    left = s.double()[rank:].square().sum()
    return float(abs((w - cut).double().square().sum() - left) / left)


@pytest.mark.parametrize("shape", SHAPES)
def test_svd_is_the_matrix(shape: tuple[int, int]) -> None:
    w = torch.randn(shape)
    result = svd(w)
    assert np.allclose(result.s, numpy_values(w), rtol=1e-5) and np.allclose(singular_values(w), result.s, rtol=1e-5)
    assert orthonormal(result.u) and orthonormal(result.v) and result.shape == shape
    assert torch.allclose(result.matrix(), w, atol=1e-5)
    b, a = result.factors()
    assert torch.allclose(b @ a, w, atol=1e-5) and torch.allclose(b.norm(dim=0), a.norm(dim=1), rtol=1e-4)


@pytest.mark.parametrize("rank", [0, 1, 7, 24])
def test_what_a_cut_loses_is_the_energy_it_leaves_out(rank: int) -> None:
    w = torch.randn(40, 25)
    result = svd(w)
    assert energy_error(w, result.cut(rank).matrix(), result.s, rank) < 1e-5


def test_it_is_red_when_v_is_taken_for_its_transpose() -> None:
    w = torch.randn(25, 25)
    result = svd(w)
    assert energy_error(w, (result.u * result.s)[:, :7] @ result.v[:7], result.s, 7) > 0.1


def test_no_other_matrix_of_that_rank_is_nearer() -> None:
    """Against the best one inside many random spans, and inside the span of a slightly turned best one."""
    w = torch.randn(40, 25)
    best = svd(w).cut(5)
    least = float((w - best.matrix()).norm())
    for turn in (0.01, 0.1, 10.0):
        for _ in range(50):
            q = torch.linalg.qr(best.v + turn * torch.randn(25, 5)).Q
            assert float((w - w @ q @ q.T).norm()) >= least


@pytest.mark.parametrize(("m", "n", "r"), [(64, 48, 1), (64, 48, 8), (30, 90, 30)])
def test_a_product_is_decomposed_from_its_factors(m: int, n: int, r: int) -> None:
    b, a = torch.randn(m, r), torch.randn(r, n)
    result = svd_of_product(b, a)
    assert result.s.shape == (r,)
    assert np.allclose(result.s, numpy_values(b.double() @ a.double())[:r], rtol=1e-5)
    assert orthonormal(result.u) and orthonormal(result.v)
    assert torch.allclose(result.matrix(), b @ a, atol=1e-4)


def test_factors_that_are_not_independent_and_no_change_at_all() -> None:
    b = torch.randn(20, 1).repeat(1, 4)
    result = svd_of_product(b, torch.randn(4, 30))
    assert numerical_rank(result.s, result.shape) == 1
    assert svd_of_product(torch.zeros(20, 4), torch.randn(4, 30)).s.tolist() == [0] * 4


def falling(m: int, n: int, rate: float) -> Tensor:
    """A matrix whose singular values are 1, e^-rate, e^-2rate, ..."""
    u, v = (torch.linalg.qr(torch.randn(side, min(m, n), dtype=torch.float64)).Q for side in (m, n))
    return (u * torch.exp(-rate * torch.arange(min(m, n)))) @ v.T


def test_sampling_finds_the_strongest_and_says_what_it_misses() -> None:
    w = falling(300, 200, 0.05)
    result, exact = sampled_svd(w, 20), numpy_values(w)
    errors = exact[:20] - result.svd.s.numpy()
    assert result.residual == pytest.approx(float(np.sqrt((exact[30:] ** 2).sum())), rel=0.05)  # 10 more than asked for
    assert (errors >= -1e-12).all() and (errors <= result.residual).all() and errors[0] < 1e-6
    assert orthonormal(result.svd.u) and orthonormal(result.svd.v)


def test_sampling_misses_nothing_of_a_low_rank() -> None:
    w = torch.randn(120, 6) @ torch.randn(6, 80)
    result = sampled_svd(w, 6)
    assert result.residual < 1e-3 and np.allclose(result.svd.s, numpy_values(w)[:6], rtol=1e-5)
    assert torch.allclose(result.svd.matrix(), w, atol=1e-4)


def test_one_pass_alone_would_see_less() -> None:
    """Why there are power iterations: without them a slowly falling spectrum is missed by more."""
    w = falling(300, 200, 0.01)
    assert sampled_svd(w, 20, iterations=0).residual > 1.02 * sampled_svd(w, 20).residual


def test_energy_is_squared_singular_values() -> None:
    s = torch.tensor([3.0, 2.0, 1.0])  # squares 9, 4, 1 of 14: 64%, 93%, 100%
    assert [energy_rank(s, share) for share in (0.5, 0.64, 0.65, 0.9, 0.95, 1.0)] == [1, 1, 2, 2, 3, 3]
    assert energy_rank(s, 0.5, energy=20.0) == 2 and energy_rank(s, 0.9, energy=20.0) is None
    assert energy_rank(torch.zeros(3), 0.9) == 0
    with pytest.raises(FathomError, match="share is 90"):
        energy_rank(s, 90)


@pytest.mark.parametrize("n", [1, 5, 64])
def test_equal_values_are_as_many_directions(n: int) -> None:
    s = torch.full((n,), 0.3)
    assert effective_rank(s) == pytest.approx(n) and stable_rank(s) == pytest.approx(n)


def test_effective_and_stable_rank() -> None:
    s = torch.tensor([2.0, 1.0, 1.0, 0.0])  # p = 1/2, 1/4, 1/4: entropy 1.5 ln 2
    assert effective_rank(s) == pytest.approx(2**1.5) and stable_rank(s) == pytest.approx(6 / 4)
    assert effective_rank(torch.tensor([5.0, 0.0])) == pytest.approx(1)
    assert stable_rank(torch.zeros(3)) == 0 and math.isfinite(effective_rank(torch.zeros(3)))


@pytest.mark.parametrize("shape", [(300, 300), (200, 800), (800, 200)])
def test_a_large_random_matrix_follows_the_law(shape: tuple[int, int]) -> None:
    """Marchenko & Pastur: edges, all values, and their energy, which is the number of entries."""
    drawn, law = torch.from_numpy(numpy_values(torch.randn(shape))), MarchenkoPastur(*shape)
    low, high = law.edges
    assert float(drawn[0]) == pytest.approx(high, rel=0.03) and float(drawn[-1]) >= low * 0.97 - 0.5
    assert float((drawn - law.values()).norm() / drawn.norm()) < 0.01
    assert float(law.values().square().sum()) == pytest.approx(shape[0] * shape[1], rel=5e-3)
    assert energy_rank(law.values(), 0.9) == pytest.approx(energy_rank(drawn, 0.9), abs=2)


def test_controls_have_the_norm_they_are_drawn_for() -> None:
    assert float(random_spectrum((50, 30), 2.5).norm()) == pytest.approx(2.5)
    assert float(random_product_spectrum((50, 30), 4, 2.5).norm()) == pytest.approx(2.5)
    assert torch.equal(random_spectrum((50, 30), 1.0), random_spectrum((50, 30), 1.0))


def test_real_weights_are_close_to_full_rank(shared_data: Path) -> None:
    """GPT-2's attention: 166 to 347 of 768 directions hold 90% of the energy; a random matrix needs 392."""
    stored = open_safetensors(shared_data / "gpt2_attention.safetensors")
    ranks = [energy_rank(singular_values(tensor.read()), 0.9) for tensor in stored.values()]
    assert (len(ranks), min(ranks), max(ranks)) == (12, 166, 347)
    assert energy_rank(random_spectrum((768, 768), 1.0), 0.9) == pytest.approx(392, abs=2)


@pytest.mark.parametrize("degrees", [1e-6, 0.01, 30.0, 89.99])
def test_angles_that_were_made(degrees: float) -> None:
    """Two planes in five dimensions: one direction shared, the other turned."""
    eye, turn = torch.eye(5, dtype=torch.float64), math.radians(degrees)
    turned = torch.stack([eye[0], math.cos(turn) * eye[1] + math.sin(turn) * eye[2]], 1)
    angles = principal_angles(eye[:, :2], turned)
    assert float(angles[0]) == pytest.approx(0, abs=1e-7) and float(angles[1]) == pytest.approx(degrees, rel=1e-6)
    assert overlap(eye[:, :2], turned) == pytest.approx((1 + math.cos(turn) ** 2) / 2)


def test_angles_do_not_depend_on_the_basis_or_the_order() -> None:
    one, other = (torch.linalg.qr(torch.randn(20, k, dtype=torch.float64)).Q for k in (3, 5))
    mixed = one @ torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    assert torch.allclose(principal_angles(one, mixed), torch.zeros(3, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(principal_angles(one, other), principal_angles(other, mixed), atol=1e-6)
    with pytest.raises(FathomError, match="20 and of 21"):
        principal_angles(one, torch.zeros(21, 2))


def test_random_directions_overlap_as_often_as_said() -> None:
    overlaps = [
        overlap(*(torch.linalg.qr(torch.randn(60, k)).Q for k in (3, 6))) for _ in range(200)
    ]  # mean 6 / 60, of 18 squared cosines each
    assert np.mean(overlaps) == pytest.approx(0.1, abs=0.01)


def test_a_direction_that_was_not_there_is_an_intruder() -> None:
    w = falling(100, 100, 0.1).float()
    before = svd(w)
    bent = svd(w + 0.001 * torch.randn(100, 100))
    assert intruders(before, before) == [] and intruders(before, bent, strongest=5) == []
    new = torch.linalg.qr(torch.randn(100, 2)).Q
    added = intruders(before, svd(w + 3 * torch.outer(new[:, 0], new[:, 1])))
    assert [intruder.place for intruder in added] == [0] and added[0].cosine < 0.5
    assert added[0].value == pytest.approx(3, rel=0.1)


BAD = [
    (lambda: svd(torch.tensor([[1.0, float("nan")], [float("inf"), 2.0]])), "2 of 4 numbers are not finite"),
    (lambda: svd_of_product(torch.full((3, 1), torch.nan), torch.ones(1, 3)), "3 of 3 numbers"),
    (lambda: singular_values(torch.ones(3)), r"shape is \(3,\)"),
    (lambda: svd(torch.ones(0, 3)), r"shape is \(0, 3\)"),
    (lambda: svd(torch.ones(3, 4)).cut(4), "rank is 4; expected from 0 to 3"),
    (lambda: svd(torch.ones(3, 4)).cut(-1), "rank is -1"),
]


@pytest.mark.parametrize(("call", "words"), BAD, ids=[words for _, words in BAD])
def test_what_has_no_singular_values_is_refused(call: object, words: str) -> None:
    with pytest.raises(FathomError, match=words):
        call()


def test_half_precision_is_decomposed_in_fp32() -> None:
    w = torch.randn(20, 10).bfloat16()
    assert svd(w).s.dtype == torch.float32 and isinstance(svd(w), SVD)
    assert np.allclose(singular_values(w), numpy_values(w.float()), rtol=1e-5)
