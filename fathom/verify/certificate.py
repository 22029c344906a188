"""What a verification found, as plain values and as text for a reader. Computes nothing."""

from dataclasses import dataclass
from typing import Any

from fathom.fields import plain
from fathom.report.table import plain as as_text
from fathom.report.table import table
from fathom.verify.compare import Comparison
from fathom.verify.layout import Layout

PACKED = (
    "packed in {}: naive and cache compute with these weights and must be equal; the others have floats, and the"
    " difference is what packing costs"
)


@dataclass(frozen=True)
class Certificate:
    """A model, how it was run, and how it compares."""

    path: str
    format: str
    dtype: str
    quantize: str | None  # how the matrices of the blocks are packed
    device: str
    torch: str
    prompts: int
    seed: int
    layout: Layout | None
    comparisons: tuple[Comparison, ...]

    @property
    def passed(self) -> bool:
        """Every comparison holds and nothing speaks for the other rope layout."""
        return all(c.passed for c in self.comparisons) and (self.layout is None or self.layout.verdict != "wrong")

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        comparisons = [plain(c) | {"allowed": c.allowed, "passed": c.passed} for c in self.comparisons]
        layout = self.layout and plain(self.layout) | {"verdict": self.layout.verdict}
        return plain(self) | {"comparisons": comparisons, "layout": layout, "passed": self.passed}

    def text(self) -> str:
        """A table with a verdict on every line, and the verdict on all."""
        heads = ("reference", "tokens", "max |Δlogit|", "allowed", "largest logit", "KL, nats", "top-1", "verdict")
        rows = [
            (
                c.reference,
                f"{c.tokens:,}",
                f"{c.max_difference:.2e}",
                "" if c.allowed is None else f"{c.allowed:.1e}",
                f"{c.largest_logit:.1f}",
                f"{c.kl:.1e}",
                f"{100 * c.top1:.2f} %",
                verdict(c),
            )
            for c in self.comparisons
        ]
        lines = [f"{self.path}: {self.format}", f"run as {self.dtype} on {self.device}, torch {self.torch}"]
        lines += [PACKED.format(self.quantize)] if self.quantize else []
        lines += [f"{self.prompts} prompts, seed {self.seed}", ""]
        lines += [as_text(table(heads, rows, numbers=(1, 2, 3, 4, 5, 6))).rstrip(), ""]
        lines += [f"{c.reference}: {c.about}" for c in self.comparisons]
        lines += [f"rope layout: {said(self.layout)}"] if self.layout else []
        return "\n".join([*lines, "", "verified" if self.passed else "NOT VERIFIED"])


def verdict(c: Comparison) -> str:
    if not c.passed:
        return "DIFFERENT"
    return "equal" if c.tolerance else "not judged"


def said(layout: Layout) -> str:
    """The evidence on the rope layout in a line."""
    evidence = []
    if layout.weights is not None:
        w = layout.weights
        evidence.append(
            f"by weights {w.verdict} ({w.half_split:+.1f} σ half-split, {w.interleaved:+.1f} σ interleaved)"
        )
    if layout.loss is not None and layout.other_loss is not None:
        evidence.append(f"loss on text {layout.loss:.3f} as loaded, {layout.other_loss:.3f} in the other layout")
    meaning = {"right": "right", "wrong": "WRONG: the rows of q and k are in the order of the other layout"}
    return f"{meaning.get(layout.verdict, layout.verdict)}; {'; '.join(evidence)}"
