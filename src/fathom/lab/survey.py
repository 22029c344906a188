"""A survey of a model: the spectra of its weights and of what changed them, and how two such changes compare.

Angles say whether two changes learned the same directions; intruders, whether a change brought directions that are
like none of the matrix. Both have what chance would give beside them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fathom.adapters import lora, peft
from fathom.adapters.layer import Dora, EmbeddingLora, Lora, LoraLinear
from fathom.adapters.svd import SVD, Intruder, intruders, numerical_rank, overlap, principal_angles, svd
from fathom.errors import FathomError
from fathom.lab.matrices import Matrices, open_matrices, require_same
from fathom.lab.spectra import Delta, Spectrum, is_large, spectrum, terms
from fathom.training.events import Prepared, Report, silent

DIRECTIONS = 8  # of a change of full rank, its strongest
STRONGEST = 10  # directions among which intruders are sought


@dataclass(frozen=True)
class Change:
    """What was added to some matrices of a model, read one by one. `rank` is how many directions it has, None: all."""

    title: str
    names: tuple[str, ...]
    read: Callable[[str], Delta]
    rank: int | None = None

    def within(self, base: Matrices) -> "Change":
        """The part of it in these matrices."""
        names = tuple(name for name in self.names if name in base.stored)
        if not names:
            raise FathomError(f"the {self.title} is in none of the matrices that were asked for")
        return replace(self, names=names)


def between(base: Matrices, tuned: Matrices) -> Change:
    """From one version of a model, or of any file of matrices, to another."""
    require_same(base, tuned)
    return Change(
        f"change from {base.path} to {tuned.path}", tuple(base.stored), lambda name: difference(base, tuned, name)
    )


def difference(base: Matrices, tuned: Matrices, name: str) -> Tensor:
    """dW, in fp32 or fp64."""
    before = base.read(name)
    return tuned.read(name).to(before.dtype) - before


def of_adapter(base: Matrices, folder: Path) -> Change:
    """What an adapter adds to its base."""
    model = base.model()
    peft.load(model, folder, "adapter", base.path)
    parts = {f"{layer}.weight": part for layer, part in lora.wrapped(model, "adapter").items()}
    rank = max(len(part.adapters["adapter"].a) for part in parts.values())  # type: ignore[arg-type]
    return Change(f"adapter {folder}", tuple(parts), lambda name: delta_of(parts[name], "adapter"), rank)


@torch.no_grad()
def delta_of(part: LoraLinear, name: str) -> Delta:
    """The factors of an adapter's delta; DoRA's has none, as it rescales whole rows."""
    adapter = part.adapters[name]
    if not isinstance(adapter, Lora) or isinstance(adapter, Dora):
        return part.delta(name)
    a, b = (x.detach().float() for x in adapter.matrices())
    b, a = (a.T, adapter.scale * b.T) if isinstance(adapter, EmbeddingLora) else (adapter.scale * b, a)
    return (b, a) if len(a) <= min(len(b), a.shape[1]) else b @ a


@dataclass(frozen=True)
class SubspaceAngles:
    """Between the strongest directions of two changes: angles in degrees, and the overlap, 0 to 1."""

    smallest: float
    largest: float
    overlap: float
    chance: float  # the overlap of as many random directions, on average

    @classmethod
    def of(cls, first: Tensor, second: Tensor) -> "SubspaceAngles":
        """Of orthonormal columns (m, j) and (m, k)."""
        angles = principal_angles(first, second)
        by_chance = max(first.shape[1], second.shape[1]) / len(first)
        return cls(float(angles[0]), float(angles[-1]), overlap(first, second), by_chance)


@dataclass(frozen=True)
class Comparison:
    """Two changes of one matrix: in what they write (out, the columns of u) and in what they read (in, those of v)."""

    name: str
    directions: tuple[int, int]
    written: SubspaceAngles
    read: SubspaceAngles


def compare(first: Change, second: Change) -> Iterator[Comparison]:
    """Each matrix that both change. FathomError where there is none."""
    shared = [name for name in first.names if name in second.names]
    if not shared:
        raise FathomError(f"{first.title} and {second.title} have no matrix in common")
    for name in shared:
        one, other = terms(first.read(name)), terms(second.read(name))
        j, k = compared_directions(one, first), compared_directions(other, second)
        if j and k:  # both change something here
            written = SubspaceAngles.of(one.u[:, :j], other.u[:, :k])
            yield Comparison(name, (j, k), written, SubspaceAngles.of(one.v[:, :j], other.v[:, :k]))


def compared_directions(delta: SVD, change: Change) -> int:
    """How many directions of a change are compared."""
    return min(change.rank or DIRECTIONS, numerical_rank(delta.s, delta.shape))


@dataclass(frozen=True)
class Intruders:
    """Those among the strongest directions of one changed matrix."""

    name: str
    relative: float  # |dW| / |W|
    looked_at: int
    found: tuple[Intruder, ...]


def find_intruders(base: Matrices, change: Change) -> Iterator[Intruders]:
    """Of each changed matrix that is small enough to be decomposed."""
    for name in change.names:
        w = base.read(name)
        if not is_large(w):
            delta = change.read(name)
            delta = delta if isinstance(delta, Tensor) else delta[0] @ delta[1]
            found = tuple(intruders(svd(w), svd(w + delta), STRONGEST))
            yield Intruders(name, float(delta.norm() / w.norm()), min(STRONGEST, *w.shape), found)


@dataclass(frozen=True)
class Section:
    """The spectra of the weights, or of one change."""

    title: str
    measured: tuple[Spectrum, ...]
    intruders: tuple[Intruders, ...] = ()


@dataclass(frozen=True)
class Survey:
    """Everything that was measured."""

    path: str
    sections: tuple[Section, ...]
    meetings: tuple[Comparison, ...] = ()


def survey(
    path: str | Path,
    deltas: Sequence[str],
    adapters: Sequence[Path],
    only: tuple[str, ...] = (),
    report: Report = silent,
) -> Survey:
    """The matrices at `path`, and what each of these files and adapters changed in them.

    only: patterns of names; none: all matrices. With two changes also the angles between them. FathomError where files
    are not of one model or have numbers that are not finite.
    """
    if (count := len(deltas) + len(adapters)) > 2:
        raise FathomError(f"{count} changes were given; expected at most two, whose angles are shown")
    base = open_matrices(path).only(only)
    changes = [between(base, open_matrices(other).only(only)) for other in deltas]
    changes = [change.within(base) for change in (*changes, *(of_adapter(base, folder) for folder in adapters))]
    total, done = len(base.stored) + sum(len(change.names) for change in changes), 0

    def measure(names: Iterable[str], read: Callable[[str], Delta]) -> Iterator[Spectrum]:
        nonlocal done
        for name in names:
            measured = spectrum(name, read(name))
            done += 1
            report(Prepared("matrices", done, total))
            yield measured

    sections = [Section(f"weights of {base.path}", tuple(measure(base.stored, base.read)))]
    for change in changes:
        measured = tuple(measure(change.names, change.read))
        sections.append(Section(change.title, measured, tuple(find_intruders(base, change))))
    comparisons = tuple(compare(*changes)) if len(changes) == 2 else ()
    return Survey(str(base.path), tuple(sections), comparisons)
