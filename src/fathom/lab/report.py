"""Results as rows of text for a terminal or a page, and in sentences that claim no more than was measured."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fathom.lab.result import MatrixResult, Point, RankResult
from fathom.lab.spectra import RankSummary, Spectrum
from fathom.lab.survey import Section, Survey

ENERGY = (
    "Energy is the sum of squared singular values, which is the squared Frobenius norm. Rank 90 % is how many of the "
    "largest singular values hold 90 % of it. Effective rank: exp of the entropy of the singular values divided by "
    "their sum (Roy & Vetterli 2007). Stable rank: energy divided by that of the largest. Random: a matrix of the same "
    "shape with independent normal numbers, or for an adapter the product of two such factors."
)


class Table(NamedTuple):
    """As `table` of report.html and report.table take it."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int]  # columns that are aligned right


def spectra_table(section: Section) -> Table:
    heads = ("matrix", "shape", "rank 50 %", "90 %", "99 %", "of", "effective", "stable", "random: 90 %", "effective")
    return Table(heads, [*map(spectrum_row, section.measured)], range(1, len(heads)))


def spectrum_row(m: Spectrum) -> Sequence[str]:
    n = m.numbers
    ranks = [f"> {len(m.values)}" if rank is None else f"{rank:,}" for rank in (n.rank_50, n.rank_90, n.rank_99)]
    effective = "unknown" if n.effective is None else f"{n.effective:.1f}"
    own = [m.name, shape_text(m.shape), *ranks, f"{m.max_rank:,}", effective, f"{n.stable:.1f}"]
    return [*own, rank_text(m.chance), "" if m.chance.effective is None else f"{m.chance.effective:.1f}"]


def shape_text(shape: Sequence[int]) -> str:
    return " x ".join(f"{side}" for side in shape)


def rank_text(ranks: RankSummary) -> str:
    """Rank 90 %"""
    return "unknown" if ranks.rank_90 is None else f"{ranks.rank_90:,}"


def comparisons_table(survey: Survey) -> Table:
    heads = (
        "matrix",
        "directions",
        *("written: angles", "overlap", "by chance"),
        *("read: angles", "overlap", "by chance"),
    )
    rows = []
    for comparison in survey.meetings:
        row = [comparison.name, " and ".join(map(str, comparison.directions))]
        for side in (comparison.written, comparison.read):
            row += [f"{side.smallest:.1f}° to {side.largest:.1f}°", f"{side.overlap:.3f}", f"{side.chance:.3f}"]
        rows.append(row)
    return Table(heads, rows, range(1, len(heads)))


def intruders_table(section: Section) -> Table:
    rows = []
    for e in section.intruders:
        cosines = ", ".join(f"{one.cosine:.2f}" for one in e.found)
        rows.append([e.name, f"{e.relative:.4f}", f"{e.looked_at}", f"{len(e.found)}", cosines])
    return Table(("matrix", "|ΔW| / |W|", "looked at", "intruders", "their cosines"), rows, (1, 2, 3))


def role(name: str) -> str:
    """What a matrix is for, whichever layer it is in: `blocks.3.attn.q.weight` -> `attn.q`."""
    return re.sub(r"(^|.*\.)\d+\.", "", name.removesuffix(".weight"))


def by_role(measured: Sequence[Spectrum]) -> dict[str, list[Spectrum]]:
    roles: dict[str, list[Spectrum]] = {}
    for m in measured:
        roles.setdefault(role(m.name), []).append(m)
    return roles


def shares(measured: Sequence[Spectrum]) -> tuple[list[float], list[float]]:
    """The part of the directions that holds 90 % of the energy, in each matrix and in its random one, where known."""
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
        return "No matrix was decomposed far enough to say how many directions hold 90 % of its energy."
    text = (
        f"90 % of the energy takes {min(own):.0%} to {max(own):.0%} of the directions, {mean(own):.0%} on average; in "
        f"random matrices of the same shapes {mean(random):.0%}."
    )
    unchanged = sum(m.norm == 0 for m in section.measured)
    return text + f" {unchanged} matrices did not change at all." * bool(unchanged)


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
    losses = ("rank", "ΔW cut at this rank", "kept", "W cut", "ΔW, random directions")
    heads = (*losses, "LoRA trained", "kept", "LoRA's parameters")
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
    heads = ("matrix", "shape", "|ΔW| / |W|", "W: 90 %", "ΔW: 90 %", "random: 90 %", "recommended rank")
    rows = [
        (m.name, shape_text(m.shape), f"{m.relative:.4f}", *map(rank_text, (m.weight, m.change, m.chance)), f"{m.rank}")
        for m in result.matrices
    ]
    return Table(heads, rows, range(1, len(heads)))


def conclusions(result: RankResult) -> list[str]:
    """What this experiment shows, in sentences."""
    best, ranks = result.recommended, [m.rank for m in result.matrices]
    lora = (
        f"; LoRA trained with them reaches {result.kept(best.trained):.1%} ({best.trained:.4f})" if best.trained else ""
    )
    return [
        f"Training all {result.parameters:,} weights took the loss from {result.base:.4f} to {result.tuned:.4f} in "
        f"{result.steps} steps. The rest says how much of that is kept.",
        sufficient_rank(result, result.change, "The change ΔW, cut"),
        sufficient_rank(result, result.weight, "The weights themselves, W + ΔW, cut in the same way"),
        sufficient_rank(result, result.chance, "ΔW along random directions instead of its strongest"),
        sufficient_rank(result, result.lora, "LoRA, which looks for the best it can do at a rank"),
        f"Recommended: ranks {min(ranks)} to {max(ranks)} matrix by matrix, {best.parameters:,} parameters or "
        f"{best.parameters / result.parameters:.1%} of the model. ΔW cut to them keeps {result.kept(best.loss):.1%} "
        f"(loss {best.loss:.4f}){lora}.",
        energy_and_loss(result),
    ]


def sufficient_rank(result: RankResult, points: tuple[Point, ...], what: str) -> str:
    """The rank from which on the requested part of the improvement is kept."""
    keep, enough = result.options.keep, result.enough(points)
    if enough is None:
        top = max(points, key=lambda point: result.kept(point.loss), default=None)
        best = f" The best is {result.kept(top.loss):.1%}, at rank {top.rank}." if top else ""
        return f"{what}: {keep:.0%} of the improvement is kept at none of these ranks.{best}"
    full, part = max(m.max_rank for m in result.matrices), enough.parameters / result.parameters
    return (
        f"{what}: {keep:.0%} of the improvement is kept from rank {enough.rank} of {full} on "
        f"({result.kept(enough.loss):.1%}, loss {enough.loss:.4f}; {enough.parameters:,} parameters, {part:.1%} of "
        "the model)."
    )


def energy_and_loss(result: RankResult) -> str:
    """How the spectra and the losses compare in this experiment, and what that does not say."""

    def share(pick: Callable[[MatrixResult], RankSummary]) -> float:
        return mean([(pick(m).rank_90 or 0) / m.max_rank for m in result.matrices])

    cut, whole = result.enough(result.change), result.enough(result.weight)
    low = cut is not None and (whole is None or cut.rank < whole.rank)
    verdict = "it is not the weights that are of low rank but their change" if low else "the change is as hard to cut"
    return (
        f"On average 90 % of the energy takes {share(lambda m: m.weight):.0%} of the directions of W,"
        f" {share(lambda m: m.change):.0%} of those of ΔW and {share(lambda m: m.chance):.0%} of a random matrix's."
        " Energy alone does not tell: many weak directions together hold much of it and do little. In the loss,"
        f" {verdict}. How low depends on the task, the text and how long was trained: another text may need more. One"
        " seed was trained; small differences between neighbouring ranks say nothing."
    )
