"""What is said before step 1 is true, and is said at once."""

import numpy as np
import pytest

from fathom.train.preflight import overlap


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_overlap_is_the_share_of_validation_text_that_was_trained_on(dtype: type) -> None:
    chance = np.random.default_rng(0)
    train, new = (chance.integers(0, 200, 4000).astype(dtype) for _ in range(2))
    assert overlap(train, new) == 0
    assert overlap(train, train[1000:2000]) == 1
    half = np.concatenate([train[:2000], new[:2000]])
    assert overlap(train, half) == pytest.approx(0.5, abs=0.05)


def test_tokens_match_and_not_their_bytes() -> None:
    """0x0101 0x0101 holds 0x0101 at an odd byte too; 0x0100 0x0001 holds 0x0001 only there."""
    assert overlap(np.array([0x0100, 0x0001] * 50, np.uint16), np.array([0x0001, 0x0100] * 30, np.uint16)) == 1
    assert overlap(np.array([0x0100] * 100, np.uint16), np.array([0x0001] * 60, np.uint16)) == 0
