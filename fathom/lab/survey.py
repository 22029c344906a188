"""One look at a model: the spectra of its weights, of what was done to them, and how two such changes lie.

Does not print and does not draw; `report` and `page` say what is in a Survey.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fathom.errors import FathomError
from fathom.lab.changes import Changed, between, of_adapter
from fathom.lab.compare import Entered, Meeting, entered, meetings
from fathom.lab.matrices import Matrices, open_matrices
from fathom.lab.spectra import Measured, spectra
from fathom.train.events import Prepared, Report, silent


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
