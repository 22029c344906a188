"""SentencePiece's files that are damaged, of other kinds or too large: one line each."""

from dataclasses import replace
from pathlib import Path

import pytest

from fathom.errors import FathomError
from fathom.tokenizer import pieces
from fathom.tokenizer.pieces import BYTE, CONTROL, USER_DEFINED, Pieces, write_pieces
from fathom.tokenizer.protocol import Special
from fathom.tokenizer.sentencepiece import SentencePieceTokenizer, is_sentencepiece, read_sentencepiece
from fathom.tokenizer.tokenizer_json import from_json
from tests.mutants import survive
from tests.tokenizer.sentencepieces import bytes_and, train


@pytest.mark.parametrize(
    "pieces, problem",
    [
        (bytes_and("a", "b", "a"), "pieces 259 and 261 are both 'a'"),
        (bytes_and(""), "piece 259 is ''; expected 1 to 1000 bytes"),
        (bytes_and("a\0b"), "piece 259 is .*none of them 0"),
        (bytes_and("é" * 501), "piece 259 is .*expected 1 to 1000 bytes"),
        (bytes_and("a", types=(7,)), "piece 259 is of type 7; expected 1 to 6"),
        (bytes_and("a", types=(2,)), "2 pieces are of the type 'unknown'; expected one"),
        (bytes_and("a", types=(CONTROL,)), "piece 259 is the single character 'a' and a control piece"),
        (bytes_and("<0x0a>", types=(BYTE,)), "piece 259 is '<0x0a>'; expected a byte piece"),
        (bytes_and("a\ud800"), r"U\+D800 at character 1"),
        (Pieces(("<unk>",), (0.0,), (2,)), "no byte piece <0x00>"),
        (Pieces((), (), ()), "0 pieces are of the type 'unknown'"),
        (Pieces(("<unk>",), (), ()), "1 pieces with 0 scores and 0 types"),
        (replace(bytes_and(), scores=(float("nan"),) * 259), "piece 0 has the score nan"),
        (replace(bytes_and(), scores=(0.0, 1e39, *[0.0] * 257)), r"piece 1 has the score 1e\+39"),
        (replace(bytes_and(), scores=(10**4000, *[0.0] * 258)), "piece 0 has the score 1000"),
        (replace(bytes_and(), scores=(0.0, float("-inf"), *[0.0] * 257)), "piece 1 has the score -inf"),
    ],
)
def test_pieces_that_the_library_must_not_see_are_one_line(pieces: Pieces, problem: str) -> None:
    with pytest.raises(FathomError, match=problem):
        SentencePieceTokenizer(pieces, Special())


@pytest.mark.parametrize(
    "how, problem",
    [
        ({"model_type": "unigram", "vocab_size": 300}, "of type unigram; expected BPE"),
        ({"model_type": "char"}, "of type character; expected BPE"),
        ({"byte_fallback": False, "vocab_size": 60}, "without byte_fallback"),
        ({"normalization_rule_name": "nmt_nfkc"}, "precompiled_charsmap"),
        ({"treat_whitespace_as_suffix": True}, "treat_whitespace_as_suffix"),
    ],
)
def test_other_kinds_of_models_are_refused(tmp_path: Path, how: dict[str, object], problem: str) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train(**how))
    assert is_sentencepiece(path.read_bytes())
    with pytest.raises(FathomError, match=problem):
        read_sentencepiece(path, 1000)


def test_a_tokenizer_larger_than_its_model_is_refused(shared_data: Path) -> None:
    """A few more pieces than the model has ids are harmless."""
    with pytest.raises(FathomError, match=r"llama2_tokenizer.model: a tokenizer of 32000 tokens; the model has 28000"):
        read_sentencepiece(shared_data / "llama2_tokenizer.model", 28_000)
    for size in (31_000, 31_999, 32_064):
        assert read_sentencepiece(shared_data / "llama2_tokenizer.model", size).vocab_size == 32_000


@pytest.mark.parametrize(
    "data, problem",
    [
        (b"", "0 pieces|of type unigram"),
        (b"\x0a", "offset 1"),
        (b"\x0a\x05ab", "offset 0"),
        (b"\x08\x01", "offset 1: a number; expected a message"),
        (pieces.varint_field(1, 7), "offset 1: a number; expected a message"),
        (pieces.length_field(1, pieces.varint_field(1, 7)), "field 1 .* is not bytes"),
        (pieces.length_field(1, pieces.length_field(1, b"\xff")), "piece 0 at offset 2 is .*; expected UTF-8"),
        (
            pieces.length_field(1, pieces.length_field(1, b"a") + pieces.length_field(2, b"abc")),
            "the score of piece 0 .* 3 bytes",
        ),
        (b"\xff" * 11, "offset 0: a number .* longer than 64 bits"),
        (b"\x0b", "offset 0: not a field"),
    ],
)
def test_damaged_files_are_one_line(tmp_path: Path, data: bytes, problem: str) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data)
    with pytest.raises(FathomError, match=problem):
        read_sentencepiece(path, 1000)


def test_of_far_more_pieces_than_the_model_has_ids_only_the_number_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(write_pieces(bytes_and(), Special()) + pieces.length_field(1, pieces.length_field(1, b"\xff")))
    with pytest.raises(FathomError, match="a tokenizer of 260 tokens; the model has 129"):
        read_sentencepiece(path, 129)
    with pytest.raises(FathomError, match=r"piece 259 at offset .* expected UTF-8"):
        read_sentencepiece(path, 130)


@pytest.mark.parametrize("type", [CONTROL, USER_DEFINED])
def test_added_pieces_beyond_the_models_ids_are_harmless_however_many(tmp_path: Path, type: int) -> None:
    path = tmp_path / "tokenizer.model"
    added = bytes_and(*(f"<|{n}|>" for n in range(100)), types=(type,) * 100)
    path.write_bytes(write_pieces(added, Special()))
    assert read_sentencepiece(path, 259).vocab_size == 359


def test_a_file_too_large_to_be_a_tokenizer_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    with path.open("wb") as file:
        file.truncate(20 << 30)
    with pytest.raises(FathomError, match="at most 1,112,576"):
        read_sentencepiece(path, 1000)
    with path.open("rb") as file:
        assert not is_sentencepiece(file.read(1 << 14))
    with pytest.raises(FathomError, match="cannot be read"):
        read_sentencepiece(tmp_path / "none", 1000)


@pytest.mark.parametrize(
    "content", [b"", b"\n", b'{"kind": "bpe"}', b"IQ== 0\nIg== 1\n", b"\n\nof text\n", b"GGUF\3\0"]
)
def test_other_files_are_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert not is_sentencepiece(path.read_bytes())


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"pieces": "abc"}, "'pieces' is damaged"),
        ({"pieces": [1]}, "'pieces' is damaged"),
        ({"scores": ["a"]}, "'scores' is damaged"),
        ({"types": [1.5]}, "'types' is damaged"),
        ({"types": None}, "'types' is damaged"),
        ({"dummy_prefix": 3}, "'dummy_prefix', 'squeeze_spaces' or 'apart' is damaged"),
        ({"bos": 999}, "token id 999"),
    ],
)
def test_damaged_json_is_one_line(change: dict[str, object], problem: str) -> None:
    with pytest.raises(FathomError, match=problem):
        from_json(SentencePieceTokenizer(bytes_and("a"), Special()).to_json() | change)


def read_and_use(path: Path) -> None:
    """What a stranger's tokenizer goes through."""
    is_sentencepiece(path.read_bytes())
    tokenizer = read_sentencepiece(path, 1000)
    tokenizer.decode(tokenizer.encode("the  cat sat\0 é東😀 <s>" * 3))


@pytest.mark.parametrize("count", [2000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutants(tmp_path: Path, count: int) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train())
    survive(read_and_use, path, count)
