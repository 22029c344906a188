"""Bytes: the ids of a text are its UTF-8."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.errors import FathomError, OutsideVocabulary
from fathom.tokenizer.characters import ByteTokenizer

TOKENIZER = ByteTokenizer()


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_ids_are_the_bytes_and_text_comes_back(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert bytes(ids) == text.encode("utf-8")
    assert TOKENIZER.encode_array(text).tolist() == ids
    assert TOKENIZER.decode(ids) == text


@given(st.binary())
def test_any_ids_decode_to_exact_bytes(data: bytes) -> None:
    assert TOKENIZER.decode_bytes(list(data)) == data
    assert TOKENIZER.decode(list(data)) == data.decode("utf-8", "replace")


@pytest.mark.parametrize("id", [-1, 256])
def test_unknown_id_is_refused(id: int) -> None:
    with pytest.raises(OutsideVocabulary, match=str(id)):
        TOKENIZER.decode([id])


def test_half_a_surrogate_pair_is_one_line() -> None:
    with pytest.raises(FathomError, match=r"U\+DC80 at character 1"):
        TOKENIZER.encode("a\udc80")
