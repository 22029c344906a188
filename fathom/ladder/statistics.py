"""A difference between two rungs, and how sure it is.

Both rungs are trained with the same seeds, and a seed gives both the same data in the same order; so differences are
taken seed by seed (a paired t-interval, Student 1908). What differs between seeds is the start and the order.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds, its standard error, and half the width of its interval (None: one seed cannot say)."""

    mean: float
    n: int
    standard_error: float | None
    half_width: float | None

    @property
    def verdict(self) -> str:
        """For a difference in loss: "better" or "worse" where the interval leaves out 0."""
        if self.half_width is None:
            return "one seed, unknown"
        if abs(self.mean) <= self.half_width:
            return "within noise"
        return "better" if self.mean > 0 else "worse"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and t-interval of independent values; there must be one."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, 1, None, None)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    error = math.sqrt(variance / n)
    return Estimate(mean, n, error, t_quantile(n - 1) * error)


def bought(below: Mapping[int, float], above: Mapping[int, float]) -> Estimate | None:
    """By how much the loss fell from the rung below, over the seeds that both have; None where they share none."""
    shared = sorted(below.keys() & above.keys())
    return estimate([below[seed] - above[seed] for seed in shared]) if shared else None


def t_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """The t for which Student's distribution with `freedom` degrees lies between -t and t with this probability."""
    low, high = 0.0, 1.0
    while t_within(high, freedom) < confidence:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_within(middle, freedom) < confidence else (low, middle)
    return high


def t_within(t: float, freedom: int) -> float:
    """P(-t < T < t), as the finite sums of Abramowitz & Stegun 26.7.3 (odd) and 26.7.4 (even)."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term, total = (math.cos(angle), 0.0) if odd else (1.0, 0.0)
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= math.cos(angle) ** 2 * k / (k + 1)
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
