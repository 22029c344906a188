"""Two changes of one model laid beside each other, and one change beside the matrices it was made to.

Angles say whether two adapters learned the same directions; intruders, whether a change brought directions that the
matrix had nothing like. Both have what chance would give beside them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from fathom.adapters.spectrum import numerical_rank
from fathom.adapters.subspaces import Intruder, intruders, overlap, principal_angles
from fathom.adapters.svd import SVD, svd
from fathom.errors import FathomError
from fathom.lab.changes import Changed
from fathom.lab.matrices import Matrices
from fathom.lab.spectra import LARGE

DIRECTIONS = 8  # of a change that has all directions, its strongest


@dataclass(frozen=True)
class Side:
    """How the strongest directions of two changes lie: angles in degrees, and the overlap, 0 to 1."""

    smallest: float
    largest: float
    overlap: float
    chance: float  # the overlap of as many random directions, on average


@dataclass(frozen=True)
class Meeting:
    """Two changes of one matrix: in what they write (out, the columns of u) and in what they read (in, those of v)."""

    name: str
    directions: tuple[int, int]
    written: Side
    read: Side


def meetings(first: Changed, second: Changed) -> Iterator[Meeting]:
    """Each matrix that both change. FathomError where there is none."""
    shared = [name for name in first.names if name in second.names]
    if not shared:
        raise FathomError(f"{first.title} and {second.title} have no matrix in common")
    for name in shared:
        one, other = first.directions(name), second.directions(name)
        j, k = strongest(one, first), strongest(other, second)
        if not j or not k:
            continue  # one of them changes nothing here
        yield Meeting(name, (j, k), side(one.u[:, :j], other.u[:, :k]), side(one.v[:, :j], other.v[:, :k]))


def strongest(found: SVD, change: Changed) -> int:
    """How many directions of a change are compared."""
    return min(change.rank or DIRECTIONS, numerical_rank(found.s, found.shape))


def side(first: Tensor, second: Tensor) -> Side:
    angles = principal_angles(first, second)
    by_chance = max(first.shape[1], second.shape[1]) / len(first)
    return Side(float(angles[0]), float(angles[-1]), overlap(first, second), by_chance)


@dataclass(frozen=True)
class Entered:
    """The intruders among the strongest directions of one changed matrix."""

    name: str
    relative: float  # |dW| / |W|
    looked_at: int
    found: tuple[Intruder, ...]


STRONGEST = 10


def entered(base: Matrices, change: Changed) -> Iterator[Entered]:
    """Each changed matrix that is small enough to be decomposed."""
    for name in change.names:
        w = base.read(name)
        if min(w.shape) > LARGE:
            continue
        delta = change.read(name)
        delta = delta if isinstance(delta, Tensor) else delta[0] @ delta[1]
        found = intruders(svd(w), svd(w + delta), STRONGEST)
        yield Entered(name, float(delta.norm() / w.norm()), min(STRONGEST, *w.shape), tuple(found))
