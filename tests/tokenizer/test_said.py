"""Whatever is done to text that remembers who said it: the text is what `str` makes, and each character its own."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.tokenizer import marked_text
from fathom.tokenizer.marked_text import Said, by, join, plain, voices

TEXTS = st.text(alphabet=" \t\nabAB\u2003é🙂", max_size=40)
PARTS = st.text(alphabet=" \nab", min_size=1, max_size=2)
CUTS: dict[str, Callable[[str, str, int], tuple[object, object]]] = {
    "strip": lambda t, p, n: (marked_text.strip(t), plain(t).strip()),
    "strip of": lambda t, p, n: (marked_text.strip(t, p), plain(t).strip(p)),
    "lstrip": lambda t, p, n: (marked_text.lstrip(t, p), plain(t).lstrip(p)),
    "rstrip": lambda t, p, n: (marked_text.rstrip(t, p), plain(t).rstrip(p)),
    "removeprefix": lambda t, p, n: (marked_text.removeprefix(t, p), plain(t).removeprefix(p)),
    "removesuffix": lambda t, p, n: (marked_text.removesuffix(t, p), plain(t).removesuffix(p)),
    "split": lambda t, p, n: (marked_text.split(t, p, n), plain(t).split(p, n)),
    "split words": lambda t, p, n: (marked_text.split(t, None, n), plain(t).split(None, n)),
    "rsplit": lambda t, p, n: (marked_text.rsplit(t, p, n), plain(t).rsplit(p, n)),
    "rsplit words": lambda t, p, n: (marked_text.rsplit(t, None, n), plain(t).rsplit(None, n)),
    "splitlines": lambda t, p, n: (marked_text.splitlines(t), plain(t).splitlines()),
    "splitlines kept": lambda t, p, n: (marked_text.splitlines(t, True), plain(t).splitlines(True)),
    "partition": lambda t, p, n: (marked_text.partition(t, p), plain(t).partition(p)),
    "rpartition": lambda t, p, n: (marked_text.rpartition(t, p), plain(t).rpartition(p)),
    "replace by nothing": lambda t, p, n: (marked_text.replace(t, p, "", n), plain(t).replace(p, "", n)),
    "slice": lambda t, p, n: (t[n:], plain(t)[n:]),
    "backwards": lambda t, p, n: (t[::-1], plain(t)[::-1]),
    "joined": lambda t, p, n: (join(list(t)), plain(t)),
    "as text": lambda t, p, n: (str(t), plain(t)),
}


@pytest.mark.parametrize("cut", CUTS)
@given(text=TEXTS, part=PARTS, count=st.integers(-1, 3))
def test_cuts_are_those_of_str_and_each_character_keeps_its_voice(cut: str, text: str, part: str, count: int) -> None:
    """The voice of a character is its place."""
    found, expected = CUTS[cut](Said(text, bytes(range(len(text)))), part, count)
    assert found == expected and type(found) in (list, tuple, Said)
    for piece in found if isinstance(found, list | tuple) else [found]:
        assert [text[voice] for voice in voices(piece)] == list(plain(piece)) or not isinstance(piece, Said)
        assert isinstance(piece, Said) or not piece


def test_a_piece_is_found_behind_what_separates_it() -> None:
    pieces = marked_text.split(Said("xabb", b"\0\1\2\3"), "ab")
    assert (pieces, voices(pieces[1])) == (["x", "b"], b"\3")


def test_a_replacement_has_its_own_voice() -> None:
    changed = marked_text.replace(by(1, "a-b-c"), "-", by(2, "++"), 1)
    assert (changed, voices(changed)) == ("a++b-c", b"\1\2\2\1\1\1")
    assert voices(marked_text.replace(by(1, "a-b"), "-", "+")) == b"\1\0\1"


def test_other_letters_keep_voices_and_more_letters_take_the_first() -> None:
    assert voices(marked_text.like(Said("ab", b"\1\2"), "AB")) == b"\1\2"
    assert voices(marked_text.like(by(3, "ß"), "SS")) == b"\3\3"


def test_joining_template_and_messages() -> None:
    text = join(["user: ", by(1, "hi"), "\n", by(2, "yo")], by(3, "|"))
    assert (text, voices(text)) == ("user: |hi|\n|yo", b"\0" * 6 + b"\3\1\1\3\0\3\2\2")
    assert type(plain(text)) is str
