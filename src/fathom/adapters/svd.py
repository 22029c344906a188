"""Singular value decomposition: any matrix as U diag(s) V^T, a sum of rank-1 matrices in descending order.

Truncated to r terms it is the best matrix of rank r (Eckart & Young 1936). Three ways to compute it: exactly; of a
product B A from its factors; by random sampling, with the error that leaves (Halko et al. 2011). Then what singular
values and directions say, and what they would be by chance. Energy is squared singular values.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.errors import FathomError


@dataclass(frozen=True)
class SVD:
    """U diag(s) V^T with orthonormal columns in u (m, k) and v (n, k), and s (k,) in descending order."""

    u: Tensor
    s: Tensor
    v: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.u), len(self.v)

    def matrix(self) -> Tensor:
        """The matrix (m, n) itself."""
        return (self.u * self.s) @ self.v.T

    def cut(self, rank: int) -> "SVD":
        """The first `rank` terms: the nearest matrix of that rank. FathomError where there are not so many."""
        if not 0 <= rank <= len(self.s):
            raise FathomError(f"rank is {rank}; expected from 0 to {len(self.s)}, the smaller side of {self.shape}")
        return SVD(self.u[:, :rank], self.s[:rank], self.v[:, :rank])

    def factors(self) -> tuple[Tensor, Tensor]:
        """LoRA's b (m, k) and a (k, n) with b a = U diag(s) V^T, each scaled by the root of s."""
        root = self.s.sqrt()
        return self.u * root, (self.v * root).T


def svd(matrix: Tensor) -> SVD:
    """All min(m, n) terms of a matrix (m, n)."""
    u, s, vt = torch.linalg.svd(as_matrix(matrix), full_matrices=False)
    return SVD(u, s, vt.T)


def singular_values(matrix: Tensor) -> Tensor:
    """(min(m, n),) of a matrix (m, n), in descending order."""
    return torch.linalg.svdvals(as_matrix(matrix))


def svd_of_product(b: Tensor, a: Tensor) -> SVD:
    """The r terms of b a, for b (m, r) and a (r, n), r <= m, n, from an r x r matrix; b a is never computed.

    b = P R and a^T = Q S give b a = P (R S^T) Q^T; P and Q are orthonormal, so R S^T has the same singular values.
    """
    p, r = torch.linalg.qr(as_matrix(b))
    q, s = torch.linalg.qr(as_matrix(a).T)
    inner = svd(r @ s.T)
    return SVD(p @ inner.u, inner.s, q @ inner.v)


@dataclass(frozen=True)
class SampledSVD:
    """The largest terms by random sampling, and what they miss: |A - Q Q^T A|_F, exact up to rounding.

    No singular value is off by more than that (Weyl), and none is too large.
    """

    svd: SVD
    residual: float


def sampled_svd(matrix: Tensor, rank: int, seed: int = 0, oversample: int = 10, iterations: int = 2) -> SampledSVD:
    """The first `rank` terms of a matrix (m, n), approximately, in O(m n rank) (Halko et al. 2011, alg. 4.4, 5.1).

    Q spans (A A^T)^iterations A applied to random vectors: almost surely the directions that A stretches most.
    """
    matrix = as_matrix(matrix)
    width = min(rank + oversample, *matrix.shape)
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(matrix @ torch.randn(matrix.shape[1], width, generator=generator).to(matrix)).Q  # (m, k)
    for _ in range(iterations):
        q = torch.linalg.qr(matrix.T @ q).Q  # orthonormal each time: small directions would be lost to rounding
        q = torch.linalg.qr(matrix @ q).Q
    inner = svd(q.T @ matrix)
    terms = SVD(q @ inner.u, inner.s, inner.v).cut(min(rank, width))
    return SampledSVD(terms, residual(matrix, q))


def residual(matrix: Tensor, q: Tensor, rows: int = 4096) -> float:
    """|A - Q Q^T A|_F of a matrix (m, n) and orthonormal columns (m, k), some rows at a time."""
    inside = q.T @ matrix  # (k, n)
    parts = (matrix[i : i + rows] - q[i : i + rows] @ inside for i in range(0, len(matrix), rows))
    return float(sum(float(part.norm()) ** 2 for part in parts) ** 0.5)


def as_matrix(matrix: Tensor) -> Tensor:
    """The matrix in fp32 or fp64. FathomError where it is no matrix or has numbers that are not finite."""
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise FathomError(f"shape is {tuple(matrix.shape)}; only a matrix (rows, columns) has singular values")
    return as_finite(matrix)


def as_finite(tensor: Tensor) -> Tensor:
    """A tensor of any shape in fp32 or fp64. FathomError where it has numbers that are not finite."""
    wrong = tensor.numel() - int(torch.isfinite(tensor).sum())
    if wrong:
        raise FathomError(f"{wrong:,} of {tensor.numel():,} numbers are not finite; the file is damaged or diverged")
    return tensor.detach() if tensor.dtype == torch.float64 else tensor.detach().float()


def principal_angles(first: Tensor, second: Tensor) -> Tensor:
    """(min(j, k),) angles in degrees between the spans of orthonormal columns (m, j) and (m, k), in ascending order.

    0: a shared direction; 90: an orthogonal one. Small angles come from sines, as a cosine near 1 is inexact (Bjorck &
    Golub 1973; Knyazev & Argentati 2002).
    """
    if len(first) != len(second):
        raise FathomError(f"directions of {len(first)} and of {len(second)} numbers have no angle; expected one shape")
    if first.shape[1] < second.shape[1]:
        first, second = second, first
    first, second = first.double(), second.double()
    across = first.T @ second  # (j, k)
    cosine = torch.linalg.svdvals(across).clamp(max=1)
    sine = torch.linalg.svdvals(second - first @ across).flip(0).clamp(max=1)
    return torch.where(cosine > sine, sine.asin(), cosine.acos()).rad2deg()


def overlap(first: Tensor, second: Tensor) -> float:
    """Mean squared cosine of the principal angles, 0 to 1 (Hu et al. 2021, eq. 4).

    Between a random j- and any k-dimensional span of m dimensions it is max(j, k) / m on average.
    """
    return float((first.double().T @ second.double()).square().sum()) / min(first.shape[1], second.shape[1])


@dataclass(frozen=True)
class Intruder:
    """A direction of the changed matrix that is like none of the old one's; `place` 0 is the strongest."""

    place: int
    cosine: float
    value: float  # its singular value


def intruders(before: SVD, after: SVD, strongest: int = 10, below: float = 0.5) -> list[Intruder]:
    """Of the `strongest` left singular vectors of W + dW, those whose cosine to every one of W's is below `below`.

    Fine-tuning in full bends W's own directions, LoRA tends to add new ones (Shuttleworth et al. 2024, algorithm 1).
    """
    nearest = (before.u.double().T @ after.u[:, :strongest].double()).abs().amax(0)  # (strongest,)
    return [
        Intruder(place, cosine, float(after.s[place]))
        for place, cosine in enumerate(nearest.tolist())
        if cosine < below
    ]


def energy_rank(s: Tensor, share: float, energy: float | None = None) -> int | None:
    """The smallest r whose r largest singular values hold this share of the energy.

    energy: of the whole matrix, where `s` are only its largest values; the result is None where they do not suffice.
    """
    if not 0 < share <= 1:
        raise FathomError(f"share is {share}; expected a part of the energy above 0 and up to 1, such as 0.9")
    cumulative = s.double().square().cumsum(0)
    total = float(cumulative[-1]) if energy is None else energy
    enough = torch.nonzero(cumulative >= share * total * (1 - 1e-12))
    return 0 if total == 0 else int(enough[0]) + 1 if len(enough) else None


def numerical_rank(s: Tensor, shape: tuple[int, int]) -> int:
    """How many singular values exceed the rounding error of a zero (Golub & Van Loan, section 5.4.1)."""
    return int((s > float(s[0]) * max(shape) * torch.finfo(s.dtype).eps).sum())


def effective_rank(s: Tensor) -> float:
    """exp(entropy of s / sum s): n for n equal values, 1 for one alone (Roy & Vetterli 2007, eq. 2 to 4)."""
    p = s.double() / s.double().sum().clamp(min=1e-300)
    return float(torch.special.entr(p).sum().exp())


def stable_rank(s: Tensor, energy: float | None = None) -> float:
    """|A|_F^2 / |A|_2^2: how many directions as strong as the first would hold all energy; 0 for the zero matrix."""
    squares = s.double().square()
    total = float(squares.sum()) if energy is None else energy
    return total / float(squares[0]) if float(squares[0]) > 0 else 0.0


@dataclass(frozen=True)
class MarchenkoPastur:
    """The singular values of a large random matrix (rows, columns) of variance 1 (Marchenko & Pastur 1967)."""

    rows: int
    columns: int

    @property
    def edges(self) -> tuple[float, float]:
        """|sqrt(m) - sqrt(n)| and sqrt(m) + sqrt(n), the limits of the distribution."""
        return abs(self.rows**0.5 - self.columns**0.5), self.rows**0.5 + self.columns**0.5

    def values(self, points: int = 20_000) -> Tensor:
        """(min(m, n),) expected singular values in descending order: quantiles of the distribution."""
        count = min(self.rows, self.columns)
        low, high = self.edges
        angle = (
            (torch.arange(points, dtype=torch.float64) + 0.5) * torch.pi / points
        )  # dense where the density is steep
        s = (low + high) / 2 - (high - low) / 2 * angle.cos()  # (points,)
        density = ((s**2 - low**2).clamp(min=0) * (high**2 - s**2).clamp(min=0)).sqrt() / s.clamp(min=1e-12)
        cumulative = (density * angle.sin()).cumsum(0)
        quantiles = (torch.arange(count, dtype=torch.float64) + 0.5) / count * cumulative[-1]
        return s[torch.searchsorted(cumulative, quantiles).clamp(max=points - 1)].flip(0)


LARGEST_DRAWN = 4_000_000  # numbers; of larger random matrices the limit is as good, and instant


def random_spectrum(shape: tuple[int, int], norm: float, seed: int = 0) -> Tensor:
    """(min(m, n),) the singular values of a random matrix of this shape and Frobenius norm."""
    if shape[0] * shape[1] > LARGEST_DRAWN:
        s = MarchenkoPastur(*shape).values()
    else:
        s = singular_values(torch.randn(shape, generator=torch.Generator().manual_seed(seed))).double()
    return s * (norm / float(s.norm()))


def random_product_spectrum(shape: tuple[int, int], rank: int, norm: float, seed: int = 0) -> Tensor:
    """(rank,) the same for a product of two random matrices (m, rank) and (rank, n)."""
    generator = torch.Generator().manual_seed(seed)
    b, a = torch.randn(shape[0], rank, generator=generator), torch.randn(rank, shape[1], generator=generator)
    s = svd_of_product(b, a).s.double()
    return s * (norm / float(s.norm()))
