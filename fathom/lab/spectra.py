"""Matrices measured: singular values, the ranks that hold their energy, and a random matrix of the same shape beside.

Energy is squared singular values. Small matrices are decomposed exactly, products from their factors; of large ones the
strongest directions are found by sampling and the rest is known by its energy alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from fathom.adapters.spectrum import control, control_of_product, effective_rank, energy_rank, stable_rank
from fathom.adapters.svd import sampled_svd, singular_values, svd_of_product
from fathom.lab.matrices import Matrices

SHARES = (0.5, 0.9, 0.99)
LARGE = 2048  # the smaller side from which on a full decomposition takes minutes
SAMPLED = 256  # directions that are found of a larger one


@dataclass(frozen=True)
class Numbers:
    """What one spectrum says. A rank of None is more than was looked at; so is the effective rank."""

    rank_50: int | None  # directions that hold half the energy
    rank_90: int | None
    rank_99: int | None
    effective: float | None  # Roy & Vetterli 2007
    stable: float


@dataclass(frozen=True)
class Measured:
    """One matrix and its control. `missed` is None where all singular values are known, else |A - Q Q^T A|_F."""

    name: str
    shape: tuple[int, ...]
    norm: float  # Frobenius
    numbers: Numbers
    chance: Numbers  # of a random matrix, or a random product, of the same shape
    values: tuple[float, ...]  # singular values, from large to small
    missed: float | None = None

    @property
    def full(self) -> int:
        """The largest rank it could have."""
        return min(self.shape)


def numbers(s: Tensor, energy: float | None = None) -> Numbers:
    """Of all singular values, or of the largest ones of a matrix of this energy."""
    half, most, nearly = (energy_rank(s, share, energy) for share in SHARES)
    return Numbers(half, most, nearly, effective_rank(s) if energy is None else None, stable_rank(s, energy))


@lru_cache(maxsize=64)
def chance(shape: tuple[int, int], rank: int | None = None) -> Numbers:
    """Of a random matrix, or a random product through `rank` dimensions."""
    return numbers(control(shape, 1.0) if rank is None else control_of_product(shape, rank, 1.0))


def measure(name: str, matrix: Tensor) -> Measured:
    """A matrix (m, n)."""
    shape, norm = (matrix.shape[0], matrix.shape[1]), float(matrix.double().norm())
    if min(shape) <= LARGE:
        s = singular_values(matrix)
        return Measured(name, shape, norm, numbers(s), chance(shape), rounded(s))
    found = sampled_svd(matrix, SAMPLED)
    said = numbers(found.svd.s, norm**2)
    return Measured(name, shape, norm, said, chance(shape), rounded(found.svd.s), found.missed)


def measure_product(name: str, b: Tensor, a: Tensor) -> Measured:
    """b a, for b (m, r) and a (r, n), never multiplied out."""
    s, shape = svd_of_product(b, a).s, (b.shape[0], a.shape[1])
    return Measured(name, shape, float(s.double().norm()), numbers(s), chance(shape, b.shape[1]), rounded(s))


def rounded(s: Tensor) -> tuple[float, ...]:
    return tuple(float(f"{value:.7g}") for value in s.tolist())


def spectra(matrices: Matrices) -> Iterator[Measured]:
    """Each matrix of a file in turn."""
    for name in matrices.stored:
        yield measure(name, matrices.read(name))
