"""The spectrum of a matrix: singular values, the ranks that hold their energy, and a random matrix of the same shape.

Energy is squared singular values. Small matrices are decomposed exactly, products from their factors; of large ones the
strongest directions are sampled, and the rest is known by its energy alone.
"""

from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from fathom.adapters.svd import (
    SVD,
    effective_rank,
    energy_rank,
    random_product_spectrum,
    random_spectrum,
    sampled_svd,
    singular_values,
    stable_rank,
    svd,
    svd_of_product,
)

LARGE = 2048  # the smaller side from which on a full decomposition takes minutes
SAMPLED = 256  # directions that are computed of a larger one

Delta = Tensor | tuple[Tensor, Tensor]  # a matrix (m, n), or its factors b (m, r) and a (r, n)


@dataclass(frozen=True)
class RankSummary:
    """How many directions hold the energy. A rank of None is more than was computed; so is the effective rank."""

    rank_50: int | None  # directions that hold half the energy
    rank_90: int | None
    rank_99: int | None
    effective: float | None  # Roy & Vetterli 2007
    stable: float

    @classmethod
    def of(cls, s: Tensor, energy: float | None = None) -> "RankSummary":
        """Of all singular values, or of the largest ones of a matrix of this energy."""
        half, most, nearly_all = (energy_rank(s, share, energy) for share in (0.5, 0.9, 0.99))
        effective = effective_rank(s) if energy is None else None
        return cls(half, most, nearly_all, effective, stable_rank(s, energy))


@dataclass(frozen=True)
class Spectrum:
    """One matrix. `missed` is None where all singular values are known, else |A - Q Q^T A|_F."""

    name: str
    shape: tuple[int, ...]
    norm: float  # Frobenius
    numbers: RankSummary
    chance: RankSummary  # of a random matrix, or a random product, of the same shape
    values: tuple[float, ...]  # singular values, in descending order
    missed: float | None = None

    @property
    def max_rank(self) -> int:
        """The largest rank that the matrix, or the product, could have."""
        return len(self.values) if self.missed is None else min(self.shape)


@lru_cache(maxsize=64)
def chance(shape: tuple[int, int], rank: int | None = None) -> RankSummary:
    """Of a random matrix, or a random product through `rank` dimensions."""
    return RankSummary.of(random_spectrum(shape, 1.0) if rank is None else random_product_spectrum(shape, rank, 1.0))


def spectrum(name: str, delta: Delta) -> Spectrum:
    """Of a matrix, or of a product that is never computed."""
    if not isinstance(delta, Tensor):
        (b, a), s = delta, svd_of_product(*delta).s
        shape = (len(b), a.shape[1])
        return Spectrum(name, shape, float(s.double().norm()), RankSummary.of(s), chance(shape, b.shape[1]), rounded(s))
    shape, norm = (delta.shape[0], delta.shape[1]), float(delta.double().norm())
    if not is_large(delta):
        s = singular_values(delta)
        return Spectrum(name, shape, norm, RankSummary.of(s), chance(shape), rounded(s))
    sampled = sampled_svd(delta, SAMPLED)
    s = sampled.svd.s
    return Spectrum(name, shape, norm, RankSummary.of(s, norm**2), chance(shape), rounded(s), sampled.residual)


def rounded(s: Tensor) -> tuple[float, ...]:
    return tuple(float(f"{value:.7g}") for value in s.tolist())


def terms(delta: Delta, rank: int | None = None) -> SVD:
    """All terms of its decomposition; of a large matrix the first `rank`, or SAMPLED."""
    if not isinstance(delta, Tensor):
        return svd_of_product(*delta)
    return sampled_svd(delta, rank or SAMPLED).svd if is_large(delta) else svd(delta)


def is_large(matrix: Tensor) -> bool:
    return min(matrix.shape) > LARGE
