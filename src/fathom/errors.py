"""Errors for the reader: what was found, what was expected, what to do.

Every mistake a user can make ends in one `FathomError`; the command line prints its one line and exits with code 2.
"""

import difflib
from collections.abc import Iterable


class FathomError(Exception):
    """A wrong call or a wrong input. `str(error)` is one line: found, expected, what to do."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class OutsideVocabulary(FathomError):
    """A token id or a character that the model's vocabulary does not hold."""


class ContextOverflow(FathomError):
    """More tokens than the positions or the cache can hold."""


class Diverged(FathomError):
    """A loss or gradient that is not a finite number. The step is not applied and no checkpoint is touched."""

    exit_code = 1


def near(word: str, known: Iterable[str], count: int = 3, then: str = "") -> str:
    """`; did you mean a, b?` with the nearest known words, or an empty string.

    then: the word that follows: `; did you mean a, b? Choose`, or `; choose` where nothing is near.
    """
    matches = difflib.get_close_matches(word, list(known), count, 0.5)
    hint = f"; did you mean {', '.join(matches)}?" if matches else ""
    return hint + (f" {then.capitalize()}" if hint else f"; {then}") if then else hint
