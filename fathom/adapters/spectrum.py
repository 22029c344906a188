"""What singular values say of a matrix: in how many directions its energy lies, and how many chance would give.

Energy is squared singular values. Every number here is a function of the spectrum alone. Does not know models.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.adapters.svd import normal, singular_values, svd_of_product
from fathom.errors import FathomError


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
