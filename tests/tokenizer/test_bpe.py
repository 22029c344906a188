"""Byte pair encoding against the `tokenizers` library on whole texts and against a reference in plain Python."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from fathom.errors import FathomError, OutsideVocabulary
from fathom.tokenizer import bpe
from fathom.tokenizer.bpe import BPETokenizer, byte_letters
from fathom.tokenizer.protocol import Special, safe_chunks
from fathom.tokenizer.words import LLAMA3_PATTERN, QWEN2_PATTERN

SENTENCES = (
    "The cat's hat isn't flat; we'll see 12 cats in 1987!\n\n  Über naïve café — 東京 😀 'tis they've  \t done.\r\n"
)
UNICODE = st.text(st.characters(exclude_categories=["Cs"]))
# what patterns treat differently: contractions, marks, digits, spaces of every kind, controls, joined letters
TRICKY = st.text(
    st.sampled_from(
        [
            *" \n\t\r\x0b\x0c\x1c\x1f\x85\xa0\u2003\u2028\u3000\u180e\u200b\ufeff",
            *"'sStdmrelv.!,_-",
            *"aé1²٣東😀\u0301ǅ",
        ]
    ),
    max_size=60,
)


def with_pattern(pattern: str) -> BPETokenizer:
    """The merges of `learned` behind the word pattern of a later model."""
    hf = tokenizers.Tokenizer.from_str(learned().hf.to_str())
    hf.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return BPETokenizer(hf)


def learned() -> BPETokenizer:
    return BPETokenizer.train([SENTENCES * 20, "the then they 's 're .\n\n .\n \n\n\n   a " * 20], 420)


GPT2_WORDS, LLAMA3_WORDS, QWEN2_WORDS = learned(), with_pattern(LLAMA3_PATTERN), with_pattern(QWEN2_PATTERN)
BOTH = pytest.mark.parametrize("tokenizer", [GPT2_WORDS, LLAMA3_WORDS, QWEN2_WORDS], ids=["gpt2", "llama3", "qwen2"])


@given(UNICODE | TRICKY)
def test_text_comes_back(text: str) -> None:
    ids = GPT2_WORDS.encode(text)
    assert GPT2_WORDS.decode(ids) == text
    assert GPT2_WORDS.decode_bytes(ids) == text.encode()


@BOTH
@given(text=UNICODE | TRICKY)
@settings(max_examples=300)
def test_cut_tears_no_token(tokenizer: BPETokenizer, text: str) -> None:
    """Every place where a prefix may be cut, whatever follows, is one where the library's words meet."""

    def words(part: str) -> list[str]:
        return [word for word, _ in tokenizer.hf.pre_tokenizer.pre_tokenize_str(part)]

    for cut in {tokenizer.cut(text[:end]) for end in range(len(text) + 1)}:
        assert words(text[:cut]) + words(text[cut:]) == words(text)


@pytest.mark.parametrize("pattern", [r"\S+ \S+|\s+", r"[\s\S]{1,7}"])
def test_words_that_are_not_known_are_cut_nowhere(pattern: str) -> None:
    tokenizer = with_pattern(pattern)
    assert tokenizer.cut("some words of a text") == 0
    text = SENTENCES * 700
    assert tokenizer.encode(text) == tokenizer.hf.encode(text, add_special_tokens=False).ids


def test_a_text_with_tokens_that_are_text_is_cut_nowhere() -> None:
    """An added token that is not special is looked for first, and may hold what would end a word."""
    hf = tokenizers.Tokenizer.from_str(learned().hf.to_str())
    hf.add_tokens(["the cat"])
    tokenizer = BPETokenizer(hf)
    assert tokenizer.cut("see the cat") == 0
    assert tokenizer.encode("see the cat") == hf.encode("see the cat", add_special_tokens=False).ids
    assert tokenizer.decode(tokenizer.encode("see the cat")) == "see the cat"


@BOTH
@given(chunks=st.lists(TRICKY, max_size=8))
def test_pieces_give_the_ids_of_the_whole(tokenizer: BPETokenizer, chunks: list[str]) -> None:
    text = "".join(chunks)
    whole = tokenizer.hf.encode(text, add_special_tokens=False).ids
    assert [i for piece in safe_chunks(chunks, tokenizer.cut) for i in tokenizer.encode(piece)] == whole


@BOTH
def test_encode_in_pieces_equals_the_library_on_the_whole(
    tokenizer: BPETokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bpe, "CHUNK", 97)
    letters = list(SENTENCES) + [" ", "\n"] * 10
    text = SENTENCES * 30 + "".join(np.random.default_rng(0).choice(letters, 20_000).tolist())
    whole = tokenizer.hf.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(text) == whole
    assert tokenizer.encode_array(text).tolist() == whole
    assert tokenizer.encode_array(text).dtype == np.uint16


def plain_python(text: str, merges: list[tuple[str, str]]) -> list[str]:
    """Sennrich et al. 2016, algorithm 1 turned around: apply each learned merge, in order, everywhere."""
    letters = {byte: letter for letter, byte in byte_letters().items()}
    symbols = [letters[byte] for byte in text.encode()]
    for merge in merges:
        place = 0
        while place < len(symbols) - 1:
            if (symbols[place], symbols[place + 1]) == merge:
                symbols[place : place + 2] = ["".join(merge)]
            place += 1
    return symbols


@pytest.mark.parametrize("word", ["The", " they", " isn", " naïve", "東京", " aaaaaaa", " thethethen"])
def test_a_word_against_plain_python(word: str) -> None:
    merges = [tuple(pair) for pair in GPT2_WORDS.to_json()["tokenizer"]["model"]["merges"]]
    vocabulary = GPT2_WORDS.hf.get_vocab()
    assert GPT2_WORDS.encode(word) == [vocabulary[symbol] for symbol in plain_python(word, merges)]


def test_the_first_merge_is_the_most_frequent_pair() -> None:
    words = ["hug"] * 10 + ["pug"] * 5 + ["hugs"] * 5 + ["bun"] * 4  # counts of pairs: u g 20, h u 15, ...
    tokenizer = BPETokenizer.train(["\n".join(words)], 258)
    assert tokenizer.to_json()["tokenizer"]["model"]["merges"] == [["u", "g"]]


def test_byte_letters_are_the_librarys_alphabet() -> None:
    assert sorted(byte_letters()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_letters().values()) == list(range(256))


@given(st.lists(st.integers(1, GPT2_WORDS.vocab_size - 1)))
def test_decode_of_any_ids_equals_the_library(ids: list[int]) -> None:
    assert GPT2_WORDS.decode(ids) == GPT2_WORDS.hf.decode(ids, skip_special_tokens=False)


def test_learning_does_not_depend_on_the_chunks() -> None:
    text = SENTENCES * 10
    small = BPETokenizer.train((text[i : i + 7] for i in range(0, len(text), 7)), 400)
    assert small.to_json() == BPETokenizer.train([text], 400).to_json()


def test_learning_stops_reading_when_the_words_repeat_no_more() -> None:
    read = []

    def chunks() -> Iterator[str]:
        for number in range(100):
            read.append(number)
            yield f"word{number} " * 3

    list(bpe.until_familiar(chunks(), budget=60))
    assert len(read) == 12  # ten words of 5 characters, then two of 6


def test_the_end_token_comes_only_by_its_id() -> None:
    assert GPT2_WORDS.eos == GPT2_WORDS.hf.token_to_id(bpe.END_OF_TEXT)
    ids = GPT2_WORDS.encode(f"a{bpe.END_OF_TEXT}b")
    assert GPT2_WORDS.eos not in ids
    assert GPT2_WORDS.decode(ids) == f"a{bpe.END_OF_TEXT}b"
    assert GPT2_WORDS.decode([GPT2_WORDS.eos]) == bpe.END_OF_TEXT


def test_a_text_too_small_for_the_vocabulary_gives_a_smaller_one() -> None:
    tokenizer = BPETokenizer.train(["ab ab ab"], 10_000)
    assert 257 < tokenizer.vocab_size < 270
    assert tokenizer.decode(tokenizer.encode("unseen ÿ")) == "unseen ÿ"


@pytest.mark.parametrize("id", [-1, GPT2_WORDS.vocab_size])
def test_unknown_id_is_refused(id: int) -> None:
    with pytest.raises(OutsideVocabulary, match=f"{id} at place 0"):
        GPT2_WORDS.decode_bytes([id])


@pytest.mark.parametrize("encode", [GPT2_WORDS.encode, GPT2_WORDS.encode_array])
def test_half_a_surrogate_pair_is_one_line(encode: object) -> None:
    with pytest.raises(FathomError, match=r"U\+D800 at character 1"):
        encode("a\ud800")  # type: ignore[operator]


@pytest.mark.parametrize("size", [-5, 0, 256])
def test_a_vocabulary_without_room_for_the_bytes_is_refused(size: int) -> None:
    with pytest.raises(FathomError, match="at least 257"):
        BPETokenizer.train(["text"], size)


def test_other_tokenizers_are_refused() -> None:
    words = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(FathomError, match="WordLevel"):
        BPETokenizer(words)
    with pytest.raises(FathomError, match="byte-level"):
        BPETokenizer(tokenizers.Tokenizer(models.BPE({"a": 0}, [])))


def test_the_real_merges_of_gpt2(shared_data: Path) -> None:
    """GPT-2's ids of a known sentence (its published encoder gives 15496, 11, 995, 0)."""
    lines = (shared_data / "gpt2_merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [tuple(line.split()) for line in lines if not line.startswith("#version") and line]
    vocabulary = [*byte_letters(), *("".join(pair) for pair in merges), bpe.END_OF_TEXT]
    hf = tokenizers.Tokenizer(models.BPE({token: id for id, token in enumerate(vocabulary)}, merges))
    hf.pre_tokenizer, hf.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    hf.add_special_tokens([bpe.END_OF_TEXT])
    tokenizer = BPETokenizer(hf, Special(eos=50256))
    assert tokenizer.vocab_size == 50257
    assert tokenizer.encode("Hello, world!") == [15496, 11, 995, 0]
    text = (shared_data / "tinyshakespeare.txt").read_text()
    array = tokenizer.encode_array(text)
    assert len(array) == 338_025  # nanoGPT's data/shakespeare/readme.md: 301,966 + 36,059
    assert tokenizer.decode(array.tolist()) == text
