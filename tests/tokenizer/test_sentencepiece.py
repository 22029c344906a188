"""SentencePiece against the `sentencepiece` library reading the files themselves."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sentencepiece as library
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.errors import FathomError, OutsideVocabulary
from fathom.generation.text import TextDecoder
from fathom.tokenizer import load
from fathom.tokenizer import sentencepiece as ours
from fathom.tokenizer.pieces import UNUSED, write_pieces
from fathom.tokenizer.protocol import Special
from fathom.tokenizer.sentencepiece import (
    SentencePieceTokenizer,
    is_sentencepiece,
    read_sentencepiece,
    to_sentencepiece,
)
from tests.tokenizer.sentencepieces import bytes_and, train

MARKS = [*"   ▁▁\n\t\r\0\x1c\x85\xa0\u2003\u3000\u200b\ufeff", *"theca.s<>/0x1A", *"é東😀\u0301ǅ\ufffd", "</s>", "!"]
TRICKY = st.lists(st.sampled_from(MARKS), max_size=60).map("".join)
TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | TRICKY


Pair = tuple[SentencePieceTokenizer, library.SentencePieceProcessor]


@pytest.fixture(scope="module")
def llama(shared_data: Path) -> Pair:
    path = shared_data / "llama2_tokenizer.model"
    return read_sentencepiece(path, 32_000), library.SentencePieceProcessor(model_file=str(path))


WAYS = {"prefix": (True, False), "bare": (False, False), "squeezed": (True, True), "squeezed bare": (False, True)}


@pytest.fixture(scope="module", params=list(WAYS))
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    prefix, squeeze = WAYS[request.param]
    path = tmp_path_factory.mktemp("model") / "tokenizer.model"
    path.write_bytes(
        train(add_dummy_prefix=prefix, remove_extra_whitespaces=squeeze, user_defined_symbols=["<|user|>", "!"])
    )
    return read_sentencepiece(path, 1000), library.SentencePieceProcessor(model_file=str(path))


@given(text=TEXTS)
@settings(max_examples=500)
def test_encode_equals_the_library_on_llama_2(llama: Pair, text: str) -> None:
    assert llama[0].encode(text) == llama[1].encode(text)


@given(text=TEXTS)
@settings(max_examples=200)
def test_encode_equals_the_library_however_spaces_are_treated(small: Pair, text: str) -> None:
    assert small[0].encode(text) == small[1].encode(text)


@given(ids=st.lists(st.integers(0, 2) | st.integers(259, 31_999) | st.just(29871)))
def test_decode_equals_the_library(llama: Pair, ids: list[int]) -> None:
    """Bytes left out: of those that are no UTF-8 the library shows each, Python each broken character."""
    assert llama[0].decode(ids) == llama[1].decode(ids)


@given(text=TEXTS)
def test_text_comes_back(llama: Pair, text: str) -> None:
    ids = llama[0].encode(text)
    assert llama[0].decode_bytes([llama[0].bos or 0, *ids]) == text.replace("▁", " ").encode()


def test_bytes_stand_for_themselves(llama: Pair) -> None:
    tokenizer, _ = llama
    assert tokenizer.decode_bytes(range(3, 259)) == bytes(range(256))
    assert tokenizer.decode([3 + 0x20, tokenizer.encode("x")[0]]) == "  x"  # a byte is not the space before a word


def test_what_llama_2_is(llama: Pair) -> None:
    tokenizer, _ = llama
    assert (tokenizer.vocab_size, tokenizer.bos, tokenizer.eos) == (32_000, 1, 2)
    assert tokenizer.special == Special(1, 2, names={"<s>": 1, "</s>": 2}, prefix=(1,))
    assert tokenizer.encode("") == []
    assert tokenizer.encode("Hello world") == [15043, 3186]


@pytest.mark.parametrize("text", ["<s>", "</s>", "a</s>b<s>", "<unk>", "<0x0A>", " <s> "])
def test_text_never_becomes_a_special_token(llama: Pair, text: str) -> None:
    ids = llama[0].encode(text)
    assert not {0, 1, 2} & set(ids)
    assert llama[0].decode(ids) == text


def test_text_becomes_what_its_user_defined_and_no_control_piece(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train(user_defined_symbols=["<|user|>"], control_symbols=["<|end|>"]))
    tokenizer = read_sentencepiece(path, 1000)
    assert tokenizer.special.names == {"<s>": 1, "</s>": 2, "<|end|>": 3}
    assert {3, 4} & set(tokenizer.encode("<|user|>cat<|end|>")) == {4}
    assert tokenizer.decode([4, 3]) == "<|user|>"


@pytest.mark.parametrize("encode", ["encode", "encode_array"])
def test_half_a_surrogate_pair_is_one_line(llama: Pair, encode: str) -> None:
    with pytest.raises(FathomError, match=r"U\+D800 at character 1"):
        getattr(llama[0], encode)("a\ud800")


@pytest.mark.parametrize("id", [-1, 32_000])
def test_unknown_id_is_refused(llama: Pair, id: int) -> None:
    with pytest.raises(OutsideVocabulary, match=f"{id} at place 0"):
        llama[0].decode_bytes([id])


@given(ids=st.lists(st.integers(0, 340)), prompt=st.integers(0, 5))
@settings(max_examples=300)
def test_streamed_pieces_are_the_whole(small: Pair, ids: list[int], prompt: int) -> None:
    tokenizer = small[0]
    ids = [id % tokenizer.vocab_size for id in ids]
    decoder = TextDecoder(tokenizer, ids[:prompt])
    shown = "".join([*(decoder.push(id) for id in ids[prompt:]), decoder.flush()])
    whole, before = tokenizer.decode_bytes(ids), tokenizer.decode_bytes(ids[:prompt])
    assert whole.startswith(before)
    assert shown == whole[len(before) :].decode("utf-8", "replace")


def test_encode_in_parts_equals_the_library_on_the_whole(
    llama: Pair,
    shared_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ours, "CHUNK", 97)
    rng = np.random.default_rng(0)
    noise = "".join(rng.choice([*"   aaa\n\nthe.,0▁東京é😀", "  "], 20_000).tolist())
    text = (shared_data / "tinyshakespeare.txt").read_text()[:100_000] + noise + " " * 500 + "a" * 500
    whole = llama[1].encode(text)
    assert llama[0].encode(text) == whole
    assert llama[0].encode_array(text).tolist() == whole
    assert llama[0].encode_array(text).dtype == np.uint16
    assert len(list(llama[0]._chunks(text))) > 1000


@given(text=TRICKY)
@settings(max_examples=300)
def test_cut_tears_no_token(small: Pair, text: str) -> None:
    tokenizer = small[0]
    if tokenizer.pieces.dummy_prefix or tokenizer.pieces.squeeze_spaces:
        assert tokenizer.cut(text) == 0
    for cut in {tokenizer.cut(text[:end]) for end in range(len(text) + 1)}:
        assert tokenizer.encode(text[:cut]) + tokenizer.encode(text[cut:]) == tokenizer.encode(text)


def test_there_are_places_to_cut() -> None:
    parts = bytes_and("▁a", "ab", "▁▁")
    tokenizer = SentencePieceTokenizer(replace(parts, dummy_prefix=False), Special())
    assert tokenizer.cut("ab ab") == 2
    assert tokenizer.cut("ba  ab") == 2
    assert tokenizer.cut("  ") == 0


def test_unused_pieces_are_taken_apart_as_the_library_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """It remembers one way to take a piece apart for all of a text: so the text goes to it as a whole."""
    monkeypatch.setattr(ours, "CHUNK", 3)
    parts = bytes_and("a", "b", "c", "ab", "bc", "abc", types=(1, 1, 1, 1, 1, UNUSED))
    tokenizer = SentencePieceTokenizer(replace(parts, dummy_prefix=False), Special())
    whole = library.SentencePieceProcessor(model_proto=write_pieces(tokenizer.pieces, Special()))
    for text in ("abc abc", "abcbc abc ab bc", "xabcx abcabc" * 5):
        assert tokenizer.encode(text) == whole.encode(text)
    assert tokenizer.cut("abc abc") == 0


def test_json_holds_all_of_it(small: Pair, tmp_path: Path) -> None:
    tokenizer = SentencePieceTokenizer(small[0].pieces, replace(small[0].special, template="{{ x }}", ends=(3,)))
    load.save(tokenizer, tmp_path / "tokenizer.json")
    again = load.load(tmp_path / "tokenizer.json")
    assert isinstance(again, SentencePieceTokenizer)
    assert (again.pieces, again.special) == (tokenizer.pieces, tokenizer.special)
    assert again.encode("the cat! 東") == tokenizer.encode("the cat! 東")


def test_the_library_reads_what_is_written(llama: Pair, tmp_path: Path) -> None:
    tokenizer, whole = llama
    path = tmp_path / "tokenizer.model"
    path.write_bytes(to_sentencepiece(tokenizer))
    assert is_sentencepiece(path.read_bytes())
    again, read = library.SentencePieceProcessor(model_file=str(path)), read_sentencepiece(path, 32_000)
    assert (again.bos_id(), again.eos_id(), again.unk_id(), again.pad_id()) == (1, 2, 0, -1)
    for id in range(32_000):
        assert (again.id_to_piece(id), again.get_score(id)) == (whole.id_to_piece(id), whole.get_score(id))
        assert (again.is_control(id), again.is_byte(id)) == (whole.is_control(id), whole.is_byte(id))
    assert (read.pieces, read.special) == (tokenizer.pieces, tokenizer.special)


def test_a_model_without_first_token_has_none(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(to_sentencepiece(SentencePieceTokenizer(bytes_and("a"), Special(eos=2))))
    assert read_sentencepiece(path, 300).special == Special(None, 2, names={"<s>": 1, "</s>": 2})
    path.write_bytes(train(bos_id=-1, eos_piece="<end>"))
    assert read_sentencepiece(path, 1000).special == Special(None, 2, names={"<end>": 2})
