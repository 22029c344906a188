"""What a ladder has measured as rows of text, and as a table for the terminal. Does not train."""

from collections.abc import Sequence

from rich.table import Table

from fathom.ladder.result import LadderResult
from fathom.ladder.statistics import Estimate
from fathom.model.cost import flops_per_token, n_parameters
from fathom.report.plot import signed
from fathom.report.table import table

HEADS = ("rung", "parameters", "FLOPs/token", "val loss", "bits/char", "what it bought", "")
NUMBERS = (1, 2, 3, 4, 5)


def terminal(result: LadderResult) -> Table:
    """The result as a table for the terminal."""
    return table(HEADS, rows(result), NUMBERS)


def rows(result: LadderResult) -> list[Sequence[str]]:
    """Texts under HEADS: the references, then each rung."""
    made: list[Sequence[str]] = []
    for name, counted in result.references.named().items():
        made.append((name, "", "", f"{counted:.4f}", f"{result.bits_per_character(counted):.3f}", "", "reference"))
    for rung in result.ladder:
        loss, bought = result.loss(rung.key), result.bought(rung.key)
        made.append(
            (
                rung.idea.title,
                f"{n_parameters(rung.config):,}",
                rounded(flops_per_token(rung.config, rung.config.context_length)),
                spread(loss) if loss else "not measured",
                f"{result.bits_per_character(loss.mean):.3f}" if loss else "",
                difference(bought) if bought else "",
                bought.verdict if bought else "",
            )
        )
    return made


def spread(loss: Estimate) -> str:
    """Mean ± half the width of its interval."""
    return f"{loss.mean:.4f}" if loss.half_width is None else f"{loss.mean:.4f} ± {loss.half_width:.3f}"


def difference(bought: Estimate) -> str:
    """The same for a difference, with its sign."""
    return signed(bought.mean) if bought.half_width is None else f"{signed(bought.mean)} ± {bought.half_width:.3f}"


def rounded(number: float) -> str:
    """1234567 -> 1.23M"""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def summary(result: LadderResult) -> list[str]:
    """What can be said for sure, in sentences."""
    said = []
    if result.options.seeds == 1:
        said.append("One seed cannot say how sure a difference is; climb with more seeds.")
    for verdict, words in (
        ("better", "Better than the rung below, beyond noise"),
        ("worse", "Worse than the rung below, beyond noise"),
        ("within noise", "Within noise, so that this ladder cannot tell"),
    ):
        titles = [r.idea.title for r in result.ladder if (b := result.bought(r.key)) and b.verdict == verdict]
        said += [f"{words}: {', '.join(titles)}."] if titles else []
    if bigram := result.loss("bigram"):
        gap = bigram.mean - result.references.bigram
        said.append(f"The trained bigram is {signed(gap)} from the counted one, which is what it should become.")
    return said
