"""The ladder that was recorded for docs/ladder.md: tiny Shakespeare, 400 steps, five seeds."""

from functools import cache
from pathlib import Path

from fathom.experiments.result import LadderResult, read

RECORDED = Path(__file__).parent / "recorded"
COMMAND = "fathom ladder --data shakespeare --steps 400 --seeds 5 --minutes 150"


@cache
def recorded() -> LadderResult:
    """Its result, as that command wrote it."""
    return read(RECORDED)
