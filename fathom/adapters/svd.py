"""Singular value decomposition: any matrix as U diag(s) V^T, a sum of rank-1 matrices from the heaviest down.

Cut after r terms it is the best matrix of rank r (Eckart & Young 1936). Three ways to get it: exactly; of a product B A
from its factors, which is never multiplied out; from random samples, with the error that leaves (Halko et al. 2011).
Energy is squared singular values: they sum to the squared Frobenius norm. Does not know models.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.errors import FathomError


@dataclass(frozen=True)
class SVD:
    """U diag(s) V^T with orthonormal columns in u (m, k) and v (n, k), and s (k,) from large to small."""

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
        """The first `rank` terms: of all matrices of that rank the nearest. FathomError where there are not so many."""
        if not 0 <= rank <= len(self.s):
            raise FathomError(f"rank is {rank}; expected from 0 to {len(self.s)}, the smaller side of {self.shape}")
        return SVD(self.u[:, :rank], self.s[:rank], self.v[:, :rank])

    def factors(self) -> tuple[Tensor, Tensor]:
        """LoRA's b (m, k) and a (k, n) with b a = U diag(s) V^T; each carries the root of s."""
        root = self.s.sqrt()
        return self.u * root, (self.v * root).T


def svd(matrix: Tensor) -> SVD:
    """All min(m, n) terms of a matrix (m, n)."""
    u, s, vt = torch.linalg.svd(usable(matrix), full_matrices=False)
    return SVD(u, s, vt.T)


def singular_values(matrix: Tensor) -> Tensor:
    """(min(m, n),) of a matrix (m, n), from large to small."""
    return torch.linalg.svdvals(usable(matrix))


def svd_of_product(b: Tensor, a: Tensor) -> SVD:
    """The r terms of b a, for b (m, r) and a (r, n), r being at most either side: of an r x r matrix between two QRs.

    b = P R and a^T = Q S give b a = P (R S^T) Q^T; P and Q are orthonormal, so that R S^T holds all singular values.
    """
    p, r = torch.linalg.qr(usable(b))
    q, s = torch.linalg.qr(usable(a).T)
    inner = svd(r @ s.T)
    return SVD(p @ inner.u, inner.s, q @ inner.v)


@dataclass(frozen=True)
class Sampled:
    """The largest singular values from random samples, and what they miss: |A - Q Q^T A|_F, exact up to rounding.

    No singular value is off by more than that (Weyl), and none is too large.
    """

    svd: SVD
    missed: float


def sampled_svd(matrix: Tensor, rank: int, seed: int = 0, oversample: int = 10, iterations: int = 2) -> Sampled:
    """The first `rank` terms of a matrix (m, n), nearly, in O(m n rank) (Halko et al. 2011, algorithms 4.4 and 5.1).

    Q spans what random vectors become under (A A^T)^iterations A: almost surely the directions that A stretches most.
    """
    matrix = usable(matrix)
    width = min(rank + oversample, *matrix.shape)
    random = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(matrix @ normal(matrix.shape[1], width, random).to(matrix)).Q  # (m, k)
    for _ in range(iterations):
        q = torch.linalg.qr(matrix.T @ q).Q  # orthonormal each time: small directions would drown in rounding
        q = torch.linalg.qr(matrix @ q).Q
    inner = svd(q.T @ matrix)
    found = SVD(q @ inner.u, inner.s, inner.v).cut(min(rank, width))
    return Sampled(found, missed(matrix, q))


def missed(matrix: Tensor, q: Tensor, rows: int = 4096) -> float:
    """|A - Q Q^T A|_F of a matrix (m, n) and orthonormal columns (m, k), some rows at a time."""
    inside = q.T @ matrix  # (k, n)
    parts = (matrix[i : i + rows] - q[i : i + rows] @ inside for i in range(0, len(matrix), rows))
    return float(sum(float(part.norm()) ** 2 for part in parts) ** 0.5)


def normal(rows: int, columns: int, random: torch.Generator) -> Tensor:
    """(rows, columns) independent standard normal numbers."""
    return torch.randn(rows, columns, generator=random)


def usable(matrix: Tensor) -> Tensor:
    """The matrix in fp32 at least. FathomError where it is none or holds what is not a number."""
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise FathomError(f"shape is {tuple(matrix.shape)}; only a matrix (rows, columns) has singular values")
    return finite(matrix)


def finite(tensor: Tensor) -> Tensor:
    """A tensor of any shape in fp32 at least. FathomError where it holds what is not a number."""
    wrong = tensor.numel() - int(torch.isfinite(tensor).sum())
    if wrong:
        raise FathomError(f"{wrong:,} of {tensor.numel():,} numbers are not finite; the file is damaged or diverged")
    return tensor.detach() if tensor.dtype == torch.float64 else tensor.detach().float()


# Directions compared: how two changes of a matrix lie to each other, and what a change brought that was not there.
#
# Works on orthonormal bases, the columns of an SVD's u or v. Does not know models.


def principal_angles(first: Tensor, second: Tensor) -> Tensor:
    """(min(j, k),) angles in degrees between the spans of orthonormal columns (m, j) and (m, k), the smallest first.

    0: a direction they share; 90: one has nothing of the other there. By cosines where those are exact, by sines where
    those are: a cosine near 1 says little (Bjorck & Golub 1973; Knyazev & Argentati 2002).
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
    """A direction of the changed matrix that the old one has nothing like; `place` counts from 0, the strongest."""

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


# What singular values say of a matrix: in how many directions its energy lies, and how many chance would give.
#
# Energy is squared singular values. Every number here is a function of the spectrum alone. Does not know models.


def energy_rank(s: Tensor, share: float, energy: float | None = None) -> int | None:
    """The least r whose largest r singular values hold this share of the energy.

    energy: of the whole matrix, where `s` are not all of its values; None is then the answer where they do not suffice.
    """
    if not 0 < share <= 1:
        raise FathomError(f"share is {share}; expected a part of the energy above 0 and up to 1, such as 0.9")
    held = s.double().square().cumsum(0)
    total = float(held[-1]) if energy is None else energy
    enough = torch.nonzero(held >= share * total * (1 - 1e-12))
    return 0 if total == 0 else int(enough[0]) + 1 if len(enough) else None


def numerical_rank(s: Tensor, shape: tuple[int, int]) -> int:
    """How many singular values are more than what rounding makes of 0 (Golub & Van Loan, section 5.4.1)."""
    return int((s > float(s[0]) * max(shape) * torch.finfo(s.dtype).eps).sum())


def effective_rank(s: Tensor) -> float:
    """exp(entropy of s / sum s): n for n equal values, 1 for one alone (Roy & Vetterli 2007, eq. 2 to 4)."""
    p = s.double() / s.double().sum().clamp(min=1e-300)
    return float(torch.special.entr(p).sum().exp())


def stable_rank(s: Tensor, energy: float | None = None) -> float:
    """|A|_F^2 / |A|_2^2: how many directions like the strongest one would hold all energy; 0 for the zero matrix."""
    squares = s.double().square()
    total = float(squares.sum()) if energy is None else energy
    return total / float(squares[0]) if float(squares[0]) > 0 else 0.0


@dataclass(frozen=True)
class Law:
    """The singular values of a large random matrix (rows, columns) of variance 1 (Marchenko & Pastur 1967)."""

    rows: int
    columns: int

    @property
    def edges(self) -> tuple[float, float]:
        """|sqrt(m) - sqrt(n)| and sqrt(m) + sqrt(n): none lies outside, but for what a finite matrix strays."""
        return abs(self.rows**0.5 - self.columns**0.5), self.rows**0.5 + self.columns**0.5

    def values(self, points: int = 20_000) -> Tensor:
        """(min(m, n),) what each singular value is near, from large to small: quantiles of the law."""
        count = min(self.rows, self.columns)
        low, high = self.edges
        angle = (torch.arange(points, dtype=torch.float64) + 0.5) * torch.pi / points  # dense where the law is steep
        s = (low + high) / 2 - (high - low) / 2 * angle.cos()  # (points,)
        density = ((s**2 - low**2).clamp(min=0) * (high**2 - s**2).clamp(min=0)).sqrt() / s.clamp(min=1e-12)
        below = (density * angle.sin()).cumsum(0)
        wanted = (torch.arange(count, dtype=torch.float64) + 0.5) / count * below[-1]
        return s[torch.searchsorted(below, wanted).clamp(max=points - 1)].flip(0)


LARGEST_DRAWN = 4_000_000  # numbers; of larger matrices the law is as good as a draw, and instant


def control(shape: tuple[int, int], norm: float, seed: int = 0) -> Tensor:
    """(min(m, n),) the singular values of a random matrix of this shape and Frobenius norm: what chance would give."""
    if shape[0] * shape[1] > LARGEST_DRAWN:
        s = Law(*shape).values()
    else:
        s = singular_values(normal(*shape, torch.Generator().manual_seed(seed))).double()
    return s * (norm / float(s.norm()))


def control_of_product(shape: tuple[int, int], rank: int, norm: float, seed: int = 0) -> Tensor:
    """(rank,) the same for a product of two random matrices (m, rank) and (rank, n)."""
    random = torch.Generator().manual_seed(seed)
    s = svd_of_product(normal(shape[0], rank, random), normal(rank, shape[1], random)).s.double()
    return s * (norm / float(s.norm()))
