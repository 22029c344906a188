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
