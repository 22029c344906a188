"""What tokenizers share: the type of ids, and streams cut where no token is torn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.errors import FathomError
from fathom.tokenizer.protocol import id_dtype, safe_chunks


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(1, "uint8"), (256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32"), (1 << 32, "uint32")],
)
def test_id_type_is_the_narrowest_that_holds_every_id(size: int, dtype: str) -> None:
    assert id_dtype(size) == dtype


def test_more_ids_than_32_bits_are_refused() -> None:
    with pytest.raises(FathomError, match="32 bits"):
        id_dtype((1 << 32) + 1)


@given(st.lists(st.text("ab |")))
def test_pieces_join_to_the_text_and_end_where_allowed(chunks: list[str]) -> None:
    pieces = list(safe_chunks(chunks, lambda text: text.rfind("|") if "|" in text else 0))
    assert "".join(pieces) == "".join(chunks)
    assert all(piece.startswith("|") for piece in pieces[1:])
    assert all(pieces)


def test_a_run_without_a_cut_does_not_grow_without_bound() -> None:
    pieces = list(safe_chunks(["x" * 10] * 10, lambda text: 0, longest=25))
    assert [len(piece) for piece in pieces] == [30, 30, 30, 10]
