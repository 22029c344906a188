"""One look at a model: the spectra of its weights, of what was done to them, and how two such changes lie.

Does not print and does not draw; `report` and `page` say what is in a Survey.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fathom.adapters import lora, peft
from fathom.adapters.layer import Dora, EmbeddingLora, Lora, LoraLinear
from fathom.adapters.svd import (
    SVD,
    Intruder,
    intruders,
    numerical_rank,
    overlap,
    principal_angles,
    sampled_svd,
    svd,
    svd_of_product,
)
from fathom.errors import FathomError
from fathom.formats.load import read
from fathom.lab.spectra import (
    LARGE,
    SAMPLED,
    Matrices,
    Measured,
    measure,
    measure_product,
    open_matrices,
    same,
    spectra,
)
from fathom.train.events import Prepared, Report, silent

# What was added to a model's matrices: by training them all, or by an adapter.
#
# A change is a matrix, or the two factors of one where it has them; then it is never multiplied out. Does not know
# what is done with it.

Delta = Tensor | tuple[Tensor, Tensor]  # (m, n), or b (m, r) and a (r, n)


@dataclass(frozen=True)
class Changed:
    """A change of some matrices of a model, read one by one. `rank` is how many directions it has, None: all."""

    title: str
    names: tuple[str, ...]
    read: Callable[[str], Delta]
    rank: int | None = None

    def measure(self, name: str) -> Measured:
        delta = self.read(name)
        return measure(name, delta) if isinstance(delta, Tensor) else measure_product(name, *delta)

    def directions(self, name: str) -> SVD:
        """All of them, or of a large matrix the strongest."""
        delta = self.read(name)
        if not isinstance(delta, Tensor):
            return svd_of_product(*delta)
        return svd(delta) if min(delta.shape) <= LARGE else sampled_svd(delta, SAMPLED).svd


def between(base: Matrices, tuned: Matrices) -> Changed:
    """From one version of a model, or of any file of matrices, to another."""

    def difference(name: str) -> Tensor:
        before = base.read(name)
        return tuned.read(name).to(before.dtype) - before

    return Changed(f"change from {base.path} to {tuned.path}", tuple(same(base, tuned)), difference)


def of_adapter(base: Matrices, folder: Path) -> Changed:
    """What an adapter adds to its base."""
    if base.opened is None:
        raise FathomError(f"{base.path} is no model but a file of tensors; an adapter needs the model it is for")
    model = read(base.opened, torch.float32)
    peft.load(model, folder, "adapter", base.path)
    parts = {f"{layer}.weight": part for layer, part in lora.wrapped(model, "adapter").items()}
    rank = max(len(part.adapters["adapter"].a) for part in parts.values())  # type: ignore[arg-type]
    return Changed(f"adapter {folder}", tuple(parts), lambda name: delta_of(parts[name], "adapter"), rank)


@torch.no_grad()
def delta_of(part: LoraLinear, name: str) -> Delta:
    """The factors of what an adapter adds; DoRA's change has none, as it turns whole rows."""
    adapter = part.adapters[name]
    if not isinstance(adapter, Lora) or isinstance(adapter, Dora):
        return part.delta(name)
    a, b = (x.detach().float() for x in adapter.matrices())
    b, a = (a.T, adapter.scale * b.T) if isinstance(adapter, EmbeddingLora) else (adapter.scale * b, a)
    return (b, a) if len(a) <= min(len(b), a.shape[1]) else b @ a


# Two changes of one model laid beside each other, and one change beside the matrices it was made to.
#
# Angles say whether two adapters learned the same directions; intruders, whether a change brought directions that the
# matrix had nothing like. Both have what chance would give beside them.

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


@dataclass(frozen=True)
class Section:
    """The spectra of one kind of matrix."""

    title: str
    measured: tuple[Measured, ...]
    intruders: tuple[Entered, ...] = ()


@dataclass(frozen=True)
class Survey:
    """All that was looked at."""

    path: str
    sections: tuple[Section, ...]
    meetings: tuple[Meeting, ...] = ()


def survey(
    path: str | Path,
    deltas: Sequence[str],
    adapters: Sequence[Path],
    only: tuple[str, ...] = (),
    report: Report = silent,
) -> Survey:
    """The matrices at `path`, and what each of these files and adapters changed in them.

    only: patterns of names; none: all matrices. With two changes also the angles between them. FathomError where files
    are not of one model or hold what is not a number.
    """
    if (count := len(deltas) + len(adapters)) > 2:
        raise FathomError(f"{count} changes were given; expected at most two, whose angles are shown")
    base = open_matrices(path).only(only)
    changes = [between(base, open_matrices(other).only(only)) for other in deltas]
    changes += [of_adapter(base, folder) for folder in adapters]
    changes = [within(change, base) for change in changes]
    total, done = len(base.stored) + sum(len(change.names) for change in changes), 0

    def counted(measured: Iterable[Measured]) -> Iterator[Measured]:
        nonlocal done
        for m in measured:
            done += 1
            report(Prepared("matrices", done, total))
            yield m

    sections = [Section(f"weights of {base.path}", tuple(counted(spectra(base))))]
    for change in changes:
        measured = tuple(counted(map(change.measure, change.names)))
        sections.append(Section(change.title, measured, tuple(entered(base, change))))
    met = tuple(meetings(changes[0], changes[1])) if len(changes) == 2 else ()
    return Survey(str(base.path), tuple(sections), met)


def within(change: Changed, base: Matrices) -> Changed:
    """The part of a change that is among the matrices that are looked at."""
    names = tuple(name for name in change.names if name in base.stored)
    if not names:
        raise FathomError(f"the {change.title} is in none of the matrices that were asked for")
    return Changed(change.title, names, change.read, change.rank)
