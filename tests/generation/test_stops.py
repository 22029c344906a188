"""Streamed text against the whole decoded at once, and stop strings against a search character by character."""

from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fathom.generation.text import StopStrings, TextDecoder
from fathom.tokenizer.bpe import BPETokenizer
from fathom.tokenizer.characters import ByteTokenizer, CharacterTokenizer
from fathom.tokenizer.protocol import Tokenizer

TEXT = "na\u00efve caf\u00e9 \u20ac5 \U0001f600\U0001f469\u200d\U0001f4bb \u65e5\u672c\u8a9e e\u0301 na na na " * 3


class Words(ByteTokenizer):
    """As SentencePiece decodes: the space before the very first word is no text, and control tokens have no bytes."""

    table = (b"", b" Once", b" upon", b" ", b"\xe2", b"\x82", b"\xac", b"a", "\u00e9".encode(), b"")
    vocab_size = len(table)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        whole = b"".join(self.table[i] for i in ids)
        return whole[1:] if whole.startswith(b" ") else whole


@cache
def tokenizer(kind: str) -> Tokenizer:
    makers = {"char": lambda: CharacterTokenizer.train([TEXT]), "bpe": lambda: BPETokenizer.train([TEXT], 280)}
    return (makers | {"byte": ByteTokenizer, "words": Words})[kind]()


KINDS = ["byte", "char", "bpe", "words"]


def streamed(decoder: TextDecoder, ids: list[int]) -> str:
    return "".join(map(decoder.push, ids)) + decoder.flush()


@pytest.mark.parametrize("kind", KINDS)
@settings(derandomize=True)
@given(data=st.data())
def test_pieces_join_to_the_whole_decode(kind: str, data: st.DataObject) -> None:
    some = tokenizer(kind)
    ids = data.draw(st.lists(st.integers(0, some.vocab_size - 1), max_size=30))
    assert streamed(TextDecoder(some), ids) == some.decode(ids) == some.decode_bytes(ids).decode(errors="replace")


@pytest.mark.parametrize("kind", KINDS)
@settings(derandomize=True)
@given(data=st.data())
def test_after_a_prompt_pieces_join_to_what_follows_it(kind: str, data: st.DataObject) -> None:
    some = tokenizer(kind)
    before, after = (data.draw(st.lists(st.integers(0, some.vocab_size - 1), max_size=9)) for _ in range(2))
    whole, prompt = some.decode_bytes(before + after), some.decode_bytes(before)
    assert streamed(TextDecoder(some, before), after) == whole[len(prompt) :].decode(errors="replace")


NEARLY = [b"\xe2", b"\x82", b"\xac", b"\xf0\x9f", b"\x98\x80", b"a", b"\xed\xa0", b"\xff", b"\xc0", b"\xf4\x90"]


@settings(derandomize=True)
@given(pieces=st.lists(st.sampled_from(NEARLY)))
def test_bytes_that_are_nearly_utf8_are_replaced_as_python_does(pieces: list[bytes]) -> None:
    ids = list(b"".join(pieces))
    assert streamed(TextDecoder(ByteTokenizer()), ids) == bytes(ids).decode(errors="replace")


def test_a_character_comes_with_its_last_byte() -> None:
    decoder = TextDecoder(ByteTokenizer())
    assert [decoder.push(byte) for byte in "\u20aca".encode()] == ["", "", "\u20ac", "a"]


def cut(text: str, stops: list[str]) -> tuple[str, bool]:
    """One character at a time: the text before the first stop string that is complete; of several the longest."""
    for end in range(1, len(text) + 1):
        if ending := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[: end - max(map(len, ending))], True
    return text, False


few = st.text("ab", max_size=4)


@settings(derandomize=True)
@given(pieces=st.lists(few, max_size=12), stops=st.lists(few.filter(bool), max_size=3))
@example(pieces=["abba"], stops=["abba", "bb"])
@example(pieces=["aabb"], stops=["bb", "abb"])
def test_stop_strings_cut_at_the_same_place_however_the_text_arrives(pieces: list[str], stops: list[str]) -> None:
    matcher, shown = StopStrings(stops), ""
    for piece in pieces:
        shown += matcher.push(piece)
        if matcher.reached:
            break
        assert not matcher.held or any(stop.startswith(matcher.held) for stop in stops)  # nothing is held in vain
    shown += matcher.flush()
    assert (shown, matcher.reached) == cut("".join(pieces), stops)


@settings(derandomize=True)
@given(text=st.text("ab", max_size=20), more=st.text("ab", max_size=6), stops=st.lists(few.filter(bool), max_size=3))
def test_what_was_shown_holds_whatever_follows(text: str, more: str, stops: list[str]) -> None:
    shown = StopStrings(stops).push(text)
    assert cut(text + more, stops)[0].startswith(shown)
