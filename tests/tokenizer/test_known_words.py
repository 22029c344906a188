"""Words that are looked up have the ids that the library gives the whole text, also where some are forgotten."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.tokenizer import known_words
from fathom.tokenizer.bpe import NOWHERE, PIECES, BPETokenizer, splits_as_gpt2
from fathom.tokenizer.known_words import ASCII_WORDS, KnownWords
from fathom.tokenizer.words import GPT2_PATTERN
from tests.tokenizer.test_bpe import BOTH, GPT2_WORDS, LLAMA3_WORDS, SENTENCES, TRICKY, UNICODE, with_pattern

ASCII = st.text(st.characters(max_codepoint=127)) | st.text(st.sampled_from("'stmdrevl a1._\t\n\r\x0b\x1c\x1f\0 "))


@BOTH
@given(text=UNICODE | TRICKY | ASCII)
@settings(max_examples=300)
def test_ids_are_those_of_the_library(tokenizer: BPETokenizer, text: str) -> None:
    assert tokenizer._known is not None
    assert tokenizer.encode(text) == tokenizer.hf.encode(text, add_special_tokens=False).ids


@given(ASCII)
@settings(max_examples=500)
def test_words_in_ascii_are_those_of_gpt2(text: str) -> None:
    words = [text[slice(*span)] for _, span in with_pattern(GPT2_PATTERN).hf.pre_tokenizer.pre_tokenize_str(text)]
    assert ASCII_WORDS.findall(text) == words


@pytest.mark.parametrize("ends", PIECES)
@given(text=UNICODE | TRICKY)
def test_pieces_meet_where_words_end(ends: "known_words.re.Pattern[str]", text: str) -> None:
    pieces = PIECES[ends].findall(text)
    assert "".join(pieces) == text
    places = np.cumsum([len(piece) for piece in pieces])[:-1].tolist()
    assert places == [match.start() for match in ends.finditer(text)]


def test_only_gpt2s_own_steps_are_split_here() -> None:
    assert splits_as_gpt2(GPT2_WORDS.hf) and not splits_as_gpt2(LLAMA3_WORDS.hf)
    for change in ("a token of the text", "a normalizer"):
        hf = tokenizers.Tokenizer.from_str(GPT2_WORDS.hf.to_str())
        if change == "a normalizer":
            hf.normalizer = tokenizers.normalizers.Lowercase()
        else:
            hf.add_tokens(["e+t"])
        assert not splits_as_gpt2(hf), change
        tokenizer = BPETokenizer(hf)
        assert tokenizer.encode("The+the e+t") == hf.encode("The+the e+t", add_special_tokens=False).ids
    assert with_pattern(r"\S+ \S+|\s+")._known is None and NOWHERE not in PIECES


def lengths(words: KnownWords, text: str) -> list[int]:
    return words.encode(text).tolist()


def test_a_word_is_asked_for_once_until_the_room_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()

    def ids(new: list[str]) -> list[list[int]]:
        asked.extend(sorted(new))
        return [[len(word)] * (len(word) - 1) for word in new]

    monkeypatch.setattr(known_words, "ROOM", 4 * known_words.EACH)
    words = KnownWords(ids, 300, PIECES[next(iter(PIECES))])
    assert lengths(words, "ab abc ab") == [2, 4, 4, 4, 3, 3]
    assert lengths(words, " ab ab abc") == [3, 3, 3, 3, 4, 4, 4] and asked == [" ab", " abc", "ab"]
    assert lengths(words, " abcd") == [5, 5, 5, 5] and lengths(words, "ab") == [2]
    assert asked == [" ab", " abc", "ab", " abcd", "ab"]  # there was room for no fourth
    assert lengths(words, "a b c d e f") == [2, 2, 2, 2, 2]  # more than there is room for, at once
    assert words.encode("").tolist() == [] and words.encode("a").dtype == np.uint16


def test_threads_share_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_words, "ROOM", 20 * known_words.EACH)
    tokenizer = BPETokenizer(tokenizers.Tokenizer.from_str(GPT2_WORDS.hf.to_str()), GPT2_WORDS.special)
    chosen = np.random.default_rng(0)
    texts = [" ".join(chosen.choice(SENTENCES.split(), 30).tolist()) for _ in range(200)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(tokenizer.encode, texts)) == [
            tokenizer.hf.encode(text, add_special_tokens=False).ids for text in texts
        ]


def test_the_array_may_be_written_to() -> None:
    ids = GPT2_WORDS.encode_array("some text")
    ids[0] = 1
    assert ids[0] == 1 and GPT2_WORDS.encode_array("some text")[0] != 1
