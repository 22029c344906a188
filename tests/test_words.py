"""Numbers as sentences say them, and that no message says `1 steps`."""

import re
from pathlib import Path

import pytest

from fathom.words import article, counted, duration, signed
from tests.house.source import MODULES, name

NOUNS = "steps|threads|seeds|runs|rows|tensors|windows|prompts|examples|records|messages|seconds|minutes|hours|files"
UNCOUNTED = re.compile(rf"(?<!of )(?<!first )\{{(?![A-Z_]+\}})[^{{}}]+\}} (?:{NOUNS}|blocks|matrices)\b(?!/s)")
SHOWN = {
    "cli",
    "training",
    "generation",
    "experiments",
    "lab",
    "bench",
    "verification",
    "report",
    "adapters",
    "running",
}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (counted(1, "step"), "1 step"),
        (counted(0, "step"), "0 steps"),
        (counted(2000, "step"), "2,000 steps"),
        (counted(1.0, "minute"), "1 minute"),
        (counted(0.5, "minute"), "0.5 minutes"),
        (counted(2, "matrix", "matrices"), "2 matrices"),
        (duration(0.6), "1 second"),
        (duration(44), "44 seconds"),
        (duration(90), "1.5 minutes"),
        (duration(3600), "1 hour"),
        (duration(40 * 3600), "1.7 days"),
        (article("ExpertsMLP"), "an ExpertsMLP"),
        (article("olmo"), "an olmo"),
        (article("Unigram"), "a Unigram"),
        (article("GeluMLP"), "a GeluMLP"),
    ],
)
def test_the_words_agree(said: str, expected: str) -> None:
    assert said == expected


@pytest.mark.parametrize("path", [path for path in MODULES if path.parent.name in SHOWN], ids=name)
def test_messages_count_with_the_helper(path: Path) -> None:
    assert not UNCOUNTED.findall(path.read_text(encoding="utf-8")), "use fathom.words.counted"


def test_signed_numbers_are_as_wide_with_minus_as_with_plus() -> None:
    assert (signed(0.5), signed(-0.5)) == ("+0.500", "\N{MINUS SIGN}0.500")
