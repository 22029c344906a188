"""Differences and how sure they are, against printed tables and against chance."""

import math

import numpy as np
import pytest

from fathom.experiments.result import estimate, paired_difference, t_quantile, t_within
from fathom.experiments.tables import BOUGHT, WORTH, reason, verdict

# two-sided 95% points of Student's t, as in any printed table
TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 10: 2.228, 30: 2.042, 120: 1.980}


@pytest.mark.parametrize("freedom, t", TABLE.items())
def test_student_s_t(freedom: int, t: float) -> None:
    assert t_quantile(freedom) == pytest.approx(t, abs=6e-4)
    assert t_within(t_quantile(freedom), freedom) == pytest.approx(0.95)


def test_other_confidence() -> None:
    assert t_quantile(4, 0.99) == pytest.approx(4.604, abs=1e-3)


def test_an_estimate_is_mean_and_error() -> None:
    values = [1.0, 2.0, 4.0]
    found = estimate(values)
    assert found.mean == pytest.approx(np.mean(values)) and found.n == 3
    assert found.standard_error == pytest.approx(np.std(values, ddof=1) / math.sqrt(3))
    assert found.half_width == pytest.approx(4.3027 * found.standard_error, rel=1e-4)


def test_seeds_are_paired() -> None:
    """What seeds share cancels: here they differ by 1, the rungs by 0.1 at each of them."""
    below, above = {1: 3.0, 2: 2.0, 3: 1.0}, {3: 0.9, 2: 1.9, 1: 2.9}
    found = paired_difference(below, above)
    assert found and found.mean == pytest.approx(0.1) and found.sign == 1
    assert found.half_width == pytest.approx(0, abs=1e-9)


def test_only_shared_seeds_count() -> None:
    found = paired_difference({1: 3.0, 2: 2.0}, {2: 1.5, 3: 0.0})
    assert found and (found.mean, found.n) == (0.5, 1)
    assert paired_difference({1: 3.0}, {2: 1.0}) is None and paired_difference({}, {}) is None


@pytest.mark.parametrize(
    "above, rung, take_away, why",
    [
        ([2.0, 2.01, 1.99], "better", "needed", "interval +0.975 to +1.025: above 0"),
        ([4.0, 4.01, 3.99], "worse", "better without", "interval −1.025 to −0.975: below 0"),
        (
            [2.9, 3.2, 2.95],
            "too close to call",
            "too close to call",
            "3 seeds, 95% interval −0.416 to +0.383: contains 0",
        ),
        ([3.0], "one seed: unknown", "one seed: unknown", "one seed gives no interval"),
    ],
)
def test_verdicts_and_their_reasons(above: list[float], rung: str, take_away: str, why: str) -> None:
    found = paired_difference({1: 3.0, 2: 3.0, 3: 3.0}, dict(enumerate(above, start=1)))
    assert found and (verdict(found, BOUGHT), verdict(found, WORTH)) == (rung, take_away)
    assert why in reason(found)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(size=(4000, 3))
    covered = [abs(found.mean) <= found.half_width for found in map(estimate, draws.tolist()) if found.half_width]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.012)
