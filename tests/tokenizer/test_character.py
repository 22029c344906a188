"""Characters: ids are places in the sorted alphabet of the text, and what is not in it is named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.errors import FathomError, OutsideVocabulary
from fathom.tokenizer.characters import CharacterTokenizer

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(TEXT)
def test_ids_are_places_in_the_sorted_alphabet(text: str) -> None:
    tokenizer = CharacterTokenizer.train([text])
    alphabet = sorted(set(text))
    assert tokenizer.encode(text) == [alphabet.index(character) for character in text]
    assert tokenizer.encode_array(text).tolist() == tokenizer.encode(text)


@given(TEXT)
def test_text_comes_back(text: str) -> None:
    tokenizer = CharacterTokenizer.train([text])
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode_bytes(tokenizer.encode(text)) == text.encode()


def test_vocabulary_does_not_depend_on_the_chunks() -> None:
    assert CharacterTokenizer.train(iter(["b😀", "", "ab"])).characters == "ab😀"


@pytest.mark.parametrize(
    ("count", "dtype"), [(1, "uint8"), (256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")]
)
def test_the_type_holds_the_largest_id(count: int, dtype: str) -> None:
    characters = "".join(map(chr, range(0x10000, 0x10000 + count)))
    array = CharacterTokenizer(characters).encode_array(characters)
    assert array.dtype == dtype
    assert array.tolist() == list(range(count))


@pytest.mark.parametrize(
    ("unknown", "said"),
    [
        ("é", ["'é'", "U+00E9", "LATIN SMALL LETTER E WITH ACUTE", "--tokenizer byte"]),
        ("G", ["'G'", "U+0047", "LATIN CAPITAL LETTER G", "bpe:SIZE"]),
        ("\t", ["U+0009", "position"]),
        ("“", ["LEFT DOUBLE QUOTATION MARK"]),
        ("😀", ["U+1F600", "GRINNING FACE"]),
        ("\ud800", ["U+D800"]),
        ("\U0010ffff", ["U+10FFFF"]),
    ],
)
def test_unknown_character_is_named_with_its_place_and_what_to_do(unknown: str, said: list[str]) -> None:
    tokenizer = CharacterTokenizer.train(['eE g"\n'])
    for encode in (tokenizer.encode, tokenizer.encode_array):
        with pytest.raises(OutsideVocabulary) as error:
            encode(f"ge{unknown}e")
        message = str(error.value)
        assert all(part in message for part in [*said, "position 2", "6 characters"])
        assert "\n" not in message


@pytest.mark.parametrize("id", [-1, 2, 1 << 40])
def test_unknown_id_is_refused(id: int) -> None:
    with pytest.raises(OutsideVocabulary, match=f"{id} at place 1"):
        CharacterTokenizer("ab").decode([0, id])


@pytest.mark.parametrize(("characters", "said"), [("", "at least one"), ("aba", "twice"), ("a\ud800", "surrogate")])
def test_impossible_vocabularies(characters: str, said: str) -> None:
    with pytest.raises(FathomError, match=said):
        CharacterTokenizer(characters)
