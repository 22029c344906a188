"""What was measured as rows of text for a terminal or a page, and in sentences that claim no more than was measured."""

import re
from collections.abc import Sequence

from fathom.lab.result import Point, RankResult
from fathom.lab.spectra import Measured
from fathom.lab.survey import Entered, Meeting, Section, Survey

HEADS = ("matrix", "shape", "rank 50 %", "90 %", "99 %", "of", "effective", "stable", "random: 90 %", "effective")
NUMERIC = tuple(range(1, len(HEADS)))
MEETING_HEADS = (
    "matrix",
    "directions",
    "written: angles",
    "overlap",
    "by chance",
    "read: angles",
    "overlap",
    "by chance",
)
INTRUDER_HEADS = ("matrix", "|ΔW| / |W|", "looked at", "intruders", "their cosines")
ENERGY = (
    "Energy is the sum of squared singular values, which is the squared Frobenius norm. Rank 90 % is how many of the "
    "largest singular values hold 90 % of it. Effective rank: exp of the entropy of the singular values divided by "
    "their sum (Roy & Vetterli 2007). Stable rank: energy divided by that of the largest. Random: a matrix of the same "
    "shape with independent normal numbers, or for an adapter the product of two such factors."
)


def row(m: Measured) -> Sequence[str]:
    """One matrix under HEADS."""
    n = m.numbers
    ranks = [f"> {len(m.values)}" if rank is None else f"{rank:,}" for rank in (n.rank_50, n.rank_90, n.rank_99)]
    effective = "unknown" if n.effective is None else f"{n.effective:.1f}"
    own = [m.name, by(m.shape), *ranks, f"{most(m):,}", effective, f"{n.stable:.1f}"]
    return [*own, shown(m.chance.rank_90), "" if m.chance.effective is None else f"{m.chance.effective:.1f}"]


def most(m: Measured) -> int:
    """The largest rank that the matrix, or the product, could have."""
    return len(m.values) if m.missed is None else min(m.shape)


def by(shape: Sequence[int]) -> str:
    return " x ".join(f"{side}" for side in shape)


def shown(rank: int | None) -> str:
    return "unknown" if rank is None else f"{rank:,}"


def met(meeting: Meeting) -> Sequence[str]:
    """One matrix under MEETING_HEADS."""
    cells = [meeting.name, " and ".join(map(str, meeting.directions))]
    for side in (meeting.written, meeting.read):
        cells += [f"{side.smallest:.1f}° to {side.largest:.1f}°", f"{side.overlap:.3f}", f"{side.chance:.3f}"]
    return cells


def intruder_row(e: Entered) -> Sequence[str]:
    """One matrix under INTRUDER_HEADS."""
    cosines = ", ".join(f"{one.cosine:.2f}" for one in e.found)
    return [e.name, f"{e.relative:.4f}", f"{e.looked_at}", f"{len(e.found)}", cosines]


def role(name: str) -> str:
    """What a matrix is for, whichever layer it is in: `blocks.3.attn.q.weight` -> `attn.q`."""
    return re.sub(r"(^|.*\.)\d+\.", "", name.removesuffix(".weight"))


def by_role(measured: Sequence[Measured]) -> dict[str, list[Measured]]:
    found: dict[str, list[Measured]] = {}
    for m in measured:
        found.setdefault(role(m.name), []).append(m)
    return found


def said_of(section: Section) -> str:
    """One sentence of what a section shows."""
    known = [m for m in section.measured if m.numbers.rank_90 is not None and m.chance.rank_90 is not None]
    if not known:
        return "No matrix was decomposed far enough to say how many directions hold 90 % of its energy."
    parts = [(m.numbers.rank_90 or 0) / most(m) for m in known]
    random = [(m.chance.rank_90 or 0) / most(m) for m in known]
    zero = sum(m.norm == 0 for m in section.measured)
    return (
        f"90 % of the energy takes {min(parts):.0%} to {max(parts):.0%} of the directions, {mean(parts):.0%} on "
        f"average; in random matrices of the same shapes {mean(random):.0%}."
        + f" {zero} matrices did not change at all."
        * bool(zero)
    )


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def sampled(survey: Survey) -> list[str]:
    """What has to be said of matrices that were too large to be decomposed in full."""
    return [
        f"{m.name}: the {len(m.values)} largest singular values were found by random sampling (Halko et al. 2011). "
        f"What is missed has a norm of {m.missed:.4g}, of {m.norm:.4g} in all: no value is off by more, and ranks are "
        "at most as large as shown."
        for section in survey.sections
        for m in section.measured
        if m.missed is not None
    ]


RANK_HEADS = (
    "rank",
    "ΔW cut at this rank",
    "kept",
    "W cut",
    "ΔW, random directions",
    "LoRA trained",
    "kept",
    "LoRA's numbers",
)
CHANGE_HEADS = ("matrix", "shape", "|ΔW| / |W|", "W: 90 %", "ΔW: 90 %", "random: 90 %", "recommended rank")


def rank_rows(result: RankResult) -> list[Sequence[str]]:
    """The losses of each rank, under RANK_HEADS."""
    rows: list[Sequence[str]] = []
    for change, weight, chance in zip(result.change, result.weight, result.chance):
        lora = next((point for point in result.lora if point.rank == change.rank), None)
        trained = (
            [f"{lora.loss:.4f}", f"{result.kept(lora.loss):.1%}", f"{lora.parameters:,}"] if lora else ["", "", ""]
        )
        kept = f"{result.kept(change.loss):.1%}"
        rows.append(
            [f"{change.rank}", f"{change.loss:.4f}", kept, f"{weight.loss:.4f}", f"{chance.loss:.4f}", *trained]
        )
    return rows


def change_rows(result: RankResult) -> list[Sequence[str]]:
    """Each matrix, under CHANGE_HEADS."""
    return [
        (m.name, by(m.shape), f"{m.relative:.4f}", *(shown(getattr(m, kind).rank_90) for kind in KINDS), f"{m.rank}")
        for m in result.matrices
    ]


def conclusions(result: RankResult) -> list[str]:
    """What this experiment shows, in sentences."""
    best = result.recommended
    said = [
        f"Training all {result.parameters:,} weights took the loss from {result.base:.4f} to {result.tuned:.4f} in "
        f"{result.steps} steps. What follows says how much of that survives.",
        reached(result, result.change, "The change ΔW, cut"),
        reached(result, result.weight, "The weights themselves, W + ΔW, cut in the same way"),
        reached(result, result.chance, "ΔW along random directions instead of its strongest"),
        reached(result, result.lora, "LoRA, which looks for the best it can do at a rank"),
        f"Recommended: ranks {span(result)} matrix by matrix, {best.parameters:,} numbers or "
        f"{best.parameters / result.parameters:.1%} of the model. ΔW cut to them keeps {result.kept(best.loss):.1%} "
        f"(loss {best.loss:.4f})"
        + (
            f"; LoRA trained with them reaches {result.kept(best.trained):.1%} ({best.trained:.4f})."
            if best.trained
            else "."
        ),
    ]
    return [*said, honest(result)]


def reached(result: RankResult, points: tuple[Point, ...], what: str) -> str:
    """From which rank on the wanted part of the improvement is kept."""
    keep, enough = result.options.keep, result.enough(points)
    if enough is None:
        top = max(points, key=lambda point: result.kept(point.loss), default=None)
        best = f" The best is {result.kept(top.loss):.1%}, at rank {top.rank}." if top else ""
        return f"{what}: {keep:.0%} of the improvement is kept at none of these ranks.{best}"
    full, part = max(m.full for m in result.matrices), enough.parameters / result.parameters
    return (
        f"{what}: {keep:.0%} of the improvement is kept from rank {enough.rank} of {full} on "
        f"({result.kept(enough.loss):.1%}, loss {enough.loss:.4f}; {enough.parameters:,} numbers, {part:.1%} of the "
        "model)."
    )


def span(result: RankResult) -> str:
    ranks = [m.rank for m in result.matrices]
    return f"{min(ranks)} to {max(ranks)}"


KINDS = ("weight", "change", "chance")


def honest(result: RankResult) -> str:
    """How the spectra and the losses go together, in this experiment."""
    own, change, chance = (mean([(getattr(m, k).rank_90 or 0) / m.full for m in result.matrices]) for k in KINDS)
    cut, whole = result.enough(result.change), result.enough(result.weight)
    low = cut is not None and (whole is None or cut.rank < whole.rank)
    verdict = "it is not the weights that are of low rank but their change" if low else "the change is as hard to cut"
    return (
        f"On average 90 % of the energy takes {own:.0%} of the directions of W, {change:.0%} of those of ΔW and "
        f"{chance:.0%} of a random matrix's. Energy alone does not tell: many weak directions together hold much of it "
        f"and do little. In the loss, {verdict}. How low depends on the task, the text and how long was trained: "
        "another text may need more. One seed was trained; small differences between neighbouring ranks say nothing."
    )
