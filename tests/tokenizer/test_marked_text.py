"""Whatever is done to text that remembers its speakers: the text is what `str` makes, and each character its own."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.tokenizer import marked_text
from fathom.tokenizer.marked_text import MarkedText, join, mark, speakers_of, unmarked

TEXTS = st.text(alphabet=" \t\nabAB\u2003é🙂", max_size=40)
PARTS = st.text(alphabet=" \nab", min_size=1, max_size=2)
CUTS: dict[str, Callable[[str, str, int], tuple[object, object]]] = {
    "strip": lambda t, p, n: (marked_text.strip(t), unmarked(t).strip()),
    "strip of": lambda t, p, n: (marked_text.strip(t, p), unmarked(t).strip(p)),
    "lstrip": lambda t, p, n: (marked_text.lstrip(t, p), unmarked(t).lstrip(p)),
    "rstrip": lambda t, p, n: (marked_text.rstrip(t, p), unmarked(t).rstrip(p)),
    "removeprefix": lambda t, p, n: (marked_text.removeprefix(t, p), unmarked(t).removeprefix(p)),
    "removesuffix": lambda t, p, n: (marked_text.removesuffix(t, p), unmarked(t).removesuffix(p)),
    "split": lambda t, p, n: (marked_text.split(t, p, n), unmarked(t).split(p, n)),
    "split words": lambda t, p, n: (marked_text.split(t, None, n), unmarked(t).split(None, n)),
    "rsplit": lambda t, p, n: (marked_text.rsplit(t, p, n), unmarked(t).rsplit(p, n)),
    "rsplit words": lambda t, p, n: (marked_text.rsplit(t, None, n), unmarked(t).rsplit(None, n)),
    "splitlines": lambda t, p, n: (marked_text.splitlines(t), unmarked(t).splitlines()),
    "splitlines kept": lambda t, p, n: (marked_text.splitlines(t, True), unmarked(t).splitlines(True)),
    "partition": lambda t, p, n: (marked_text.partition(t, p), unmarked(t).partition(p)),
    "rpartition": lambda t, p, n: (marked_text.rpartition(t, p), unmarked(t).rpartition(p)),
    "replace by nothing": lambda t, p, n: (marked_text.replace(t, p, "", n), unmarked(t).replace(p, "", n)),
    "slice": lambda t, p, n: (t[n:], unmarked(t)[n:]),
    "backwards": lambda t, p, n: (t[::-1], unmarked(t)[::-1]),
    "joined": lambda t, p, n: (join(list(t)), unmarked(t)),
    "as text": lambda t, p, n: (str(t), unmarked(t)),
}


@pytest.mark.parametrize("cut", CUTS)
@given(text=TEXTS, part=PARTS, count=st.integers(-1, 3))
def test_cuts_are_those_of_str_and_each_character_keeps_its_speaker(cut: str, text: str, part: str, count: int) -> None:
    """The speaker of a character is its place."""
    found, expected = CUTS[cut](MarkedText(text, bytes(range(len(text)))), part, count)
    assert found == expected and type(found) in (list, tuple, MarkedText)
    for piece in found if isinstance(found, list | tuple) else [found]:
        spoken = [text[speaker] for speaker in speakers_of(piece)]
        assert spoken == list(unmarked(piece)) or not isinstance(piece, MarkedText)
        assert isinstance(piece, MarkedText) or not piece


def test_a_piece_is_found_behind_what_separates_it() -> None:
    pieces = marked_text.split(MarkedText("xabb", b"\0\1\2\3"), "ab")
    assert (pieces, speakers_of(pieces[1])) == (["x", "b"], b"\3")


def test_a_replacement_has_its_own_speaker() -> None:
    changed = marked_text.replace(mark("a-b-c", 1), "-", mark("++", 2), 1)
    assert (changed, speakers_of(changed)) == ("a++b-c", b"\1\2\2\1\1\1")
    assert speakers_of(marked_text.replace(mark("a-b", 1), "-", "+")) == b"\1\0\1"


def test_other_letters_keep_speakers_and_more_letters_take_the_first() -> None:
    assert speakers_of(marked_text.recased(MarkedText("ab", b"\1\2"), "AB")) == b"\1\2"
    assert speakers_of(marked_text.recased(mark("ß", 3), "SS")) == b"\3\3"


def test_joining_template_and_messages() -> None:
    text = join(["user: ", mark("hi", 1), "\n", mark("yo", 2)], mark("|", 3))
    assert (text, speakers_of(text)) == ("user: |hi|\n|yo", b"\0" * 6 + b"\3\1\1\3\0\3\2\2")
    assert type(unmarked(text)) is str
