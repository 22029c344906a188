"""Results as rows of text for a terminal or a page, and in sentences that claim no more than was measured."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fathom.lab.result import MatrixResult, Point, RankResult
from fathom.lab.spectra import RankSummary, Spectrum
from fathom.lab.survey import Section, Survey
from fathom.words import counted

DEFINITIONS = (
    "Energy is the sum of squared singular values, which is the squared Frobenius norm. The columns 50%, 90% and 99% "
    "are ranks: how many of the largest singular values hold that part of the energy.",
    "Effective rank is exp of the entropy of the singular values divided by their sum (Roy & Vetterli 2007); stable "
    "rank is the energy divided by that of the largest singular value.",
    "Random is the 90% rank of a matrix of the same shape with independent normal entries; for an adapter, of the "
    "product of two such factors.",
)
KEY = "50%, 90%, 99%: ranks holding that energy; random: 90% rank of a random matrix"


class Table(NamedTuple):
    """As `table` of report.html and report.table take it."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int]  # columns that are aligned right


def spectra_table(section: Section) -> Table:
    heads = ("matrix", "shape", "50%", "90%", "99%", "effective", "stable", "random")
    return Table(heads, [*map(spectrum_row, section.measured)], range(1, len(heads)))


def spectrum_row(m: Spectrum) -> Sequence[str]:
    n = m.numbers
    ranks = [f"> {len(m.values)}" if rank is None else f"{rank:,}" for rank in (n.rank_50, n.rank_90, n.rank_99)]
    effective = "unknown" if n.effective is None else f"{n.effective:.1f}"
    return [short_name(m.name), shape_text(m.shape), *ranks, effective, f"{n.stable:.1f}", rank_text(m.chance)]


def short_name(name: str) -> str:
    """A matrix without `.weight`, which all of them end in."""
    return name.removesuffix(".weight")


def shape_text(shape: Sequence[int]) -> str:
    return " × ".join(f"{side}" for side in shape)


def rank_text(ranks: RankSummary) -> str:
    """The 90% rank."""
    return "unknown" if ranks.rank_90 is None else f"{ranks.rank_90:,}"


def comparisons_table(survey: Survey) -> Table:
    """Two rows for a matrix: the directions that both changes write, and those that they read."""
    rows = []
    for comparison in survey.meetings:
        counts = " and ".join(map(str, comparison.directions))
        for side, found in (("written", comparison.written), ("read", comparison.read)):
            angles = f"{found.smallest:.1f}° to {found.largest:.1f}°"
            row = [side, angles, f"{found.overlap:.3f}", f"{found.chance:.3f}"]
            rows.append([short_name(comparison.name), counts, *row] if side == "written" else ["", "", *row])
    return Table(("matrix", "directions", "side", "angles", "overlap", "by chance"), rows, (1, 3, 4, 5))


def intruders_table(section: Section) -> Table:
    rows = []
    for e in section.intruders:
        cosines = ", ".join(f"{one.cosine:.2f}" for one in e.found)
        rows.append([short_name(e.name), f"{e.relative:.4f}", f"{e.looked_at}", f"{len(e.found)}", cosines])
    return Table(("matrix", "|ΔW|/|W|", "of", "intruders", "their cosines"), rows, (1, 2, 3))


def role(name: str) -> str:
    """What a matrix is for, whichever layer it is in: `blocks.3.attn.q.weight` -> `attn.q`."""
    return re.sub(r"(^|.*\.)\d+\.", "", name.removesuffix(".weight"))


def by_role(measured: Sequence[Spectrum]) -> dict[str, list[Spectrum]]:
    roles: dict[str, list[Spectrum]] = {}
    for m in measured:
        roles.setdefault(role(m.name), []).append(m)
    return roles


def shares(measured: Sequence[Spectrum]) -> tuple[list[float], list[float]]:
    """The part of the directions that holds 90% of the energy, in each matrix and in its random one, where known."""
    known = [
        (m.numbers.rank_90 / m.max_rank, m.chance.rank_90 / m.max_rank)
        for m in measured
        if m.numbers.rank_90 is not None and m.chance.rank_90 is not None
    ]
    return [own for own, _ in known], [random for _, random in known]


def summary(section: Section) -> str:
    """What a section shows, in a sentence or two."""
    own, random = shares(section.measured)
    if not own:
        return "No matrix was decomposed far enough to know how many directions hold 90% of its energy."
    text = (
        f"90% of the energy takes {min(own):.0%} to {max(own):.0%} of the directions, {mean(own):.0%} on average; in "
        f"random matrices of the same shapes {mean(random):.0%}."
    )
    unchanged = sum(m.norm == 0 for m in section.measured)
    return text + f" {counted(unchanged, 'matrix', 'matrices')} did not change at all." * bool(unchanged)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def sampling_notes(survey: Survey) -> list[str]:
    """How exact the singular values of matrices are that were too large to be decomposed in full."""
    return [
        f"{m.name}: the {len(m.values)} largest singular values were found by random sampling (Halko et al. 2011). "
        f"What is missed has a norm of {m.missed:.4g}, of {m.norm:.4g} in all: no value is off by more, and ranks are "
        "at most as large as shown."
        for section in survey.sections
        for m in section.measured
        if m.missed is not None
    ]


def rank_table(result: RankResult) -> Table:
    """The losses of each rank."""
    heads = ("rank", "ΔW cut", "kept", "W cut", "random", "LoRA", "kept", "parameters")
    lora = {
        point.rank: [f"{point.loss:.4f}", f"{result.kept(point.loss):.1%}", f"{point.parameters:,}"]
        for point in result.lora
    }
    rows = []
    for change, weight, chance in zip(result.change, result.weight, result.chance):
        row = [f"{change.rank}", f"{change.loss:.4f}", f"{result.kept(change.loss):.1%}"]
        rows.append([*row, f"{weight.loss:.4f}", f"{chance.loss:.4f}", *lora.get(change.rank, ["", "", ""])])
    return Table(heads, rows, range(len(heads)))


def matrices_table(result: RankResult) -> Table:
    heads = ("matrix", "shape", "|ΔW|/|W|", "W 90%", "ΔW 90%", "random", "rank")
    rows = [
        (
            short_name(m.name),
            shape_text(m.shape),
            f"{m.relative:.4f}",
            *map(rank_text, (m.weight, m.change, m.chance)),
            f"{m.rank}",
        )
        for m in result.matrices
    ]
    return Table(heads, rows, range(1, len(heads)))


def conclusions(result: RankResult) -> list[str]:
    """What this experiment shows, in three sentences."""
    best, ranks, keep = result.recommended, [m.rank for m in result.matrices], f"{result.options.keep:.0%}"
    cut, whole = result.enough(result.change), result.enough(result.weight)
    low = cut is not None and (whole is None or cut.rank < whole.rank)
    verdict = "the weights are not of low rank, but their change is" if low else "the change is as hard to cut"
    trained = f", and LoRA trained with them {result.kept(best.trained):.1%}" if best.trained else ""
    return [
        f"Training all {result.parameters:,} weights for {counted(result.steps, 'step')} took the loss from "
        f"{result.base:.4f} to {result.tuned:.4f}.",
        f"{keep} of that improvement is kept by ΔW cut to {least(result, result.change)}, by LoRA at "
        f"{least(result, result.lora)}, by W + ΔW cut to {least(result, result.weight)}, and by random directions of "
        f"ΔW at {least(result, result.chance)}: in the loss, {verdict}.",
        f"Recommended are ranks {min(ranks)} to {max(ranks)}, matrix by matrix ({best.parameters:,} parameters, "
        f"{best.parameters / result.parameters:.1%} of the model): ΔW cut to them keeps {result.kept(best.loss):.1%}"
        f"{trained}.",
    ]


def least(result: RankResult, points: tuple[Point, ...]) -> str:
    """The smallest rank from which the requested part of the improvement is kept."""
    enough = result.enough(points)
    return "none of these ranks" if enough is None else f"rank {enough.rank}"


def energy_and_loss(result: RankResult) -> str:
    """How the spectra and the losses compare in this experiment, and what that does not say."""

    def share(pick: Callable[[MatrixResult], RankSummary]) -> float:
        return mean([(pick(m).rank_90 or 0) / m.max_rank for m in result.matrices])

    return (
        f"On average 90% of the energy takes {share(lambda m: m.weight):.0%} of the directions of W,"
        f" {share(lambda m: m.change):.0%} of those of ΔW and {share(lambda m: m.chance):.0%} of a random matrix's."
        " Energy is not loss: many weak directions together hold much of it and do little. How low a rank suffices"
        " depends on the task, the text and the length of the training, and small differences between neighbouring"
        " ranks mean nothing: one seed was trained."
    )
