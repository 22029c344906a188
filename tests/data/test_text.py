"""Text files: what comes out is what Python's own reading gives, and what is no text is one line with its place."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.data import text as text_module
from fathom.data.text import JSONLines, TextFile
from fathom.errors import FathomError

Temp = pytest.TempPathFactory
UNICODE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0") | st.sampled_from("\r\n"))


def read(source: TextFile | JSONLines, max_chars: int = 7) -> list[str]:
    return ["".join(document) for document in source.documents(max_chars)]


@given(content=UNICODE, max_chars=st.integers(1, 9))
def test_a_text_file_equals_pythons_own_reading(content: str, max_chars: int, tmp_path_factory: Temp) -> None:
    path = tmp_path_factory.getbasetemp() / "text.txt"
    path.write_bytes(content.encode())
    with path.open(encoding="utf-8-sig") as file:  # universal newlines, no byte order mark
        assert read(TextFile(path), max_chars) == [file.read()]


@pytest.mark.parametrize("max_chars", [1, 3, 4, 100])
def test_byte_order_mark_and_line_ends(max_chars: int, tmp_path: Path) -> None:
    path = tmp_path / "windows.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\r\nthree\rfour \xc3\xa9\r\n")
    assert read(TextFile(path), max_chars) == ["one\ntwo\n\nthree\nfour é\n"]


@given(st.integers(1, 50))
def test_chunks_are_never_longer_than_asked(max_chars: int) -> None:
    (document,) = TextFile(Path(__file__)).documents(max_chars)
    assert all(0 < len(chunk) <= max_chars for chunk in document)


@pytest.mark.parametrize("max_chars", [1, 5, 100])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"caf\xe9 au lait", "byte 3 is 0xe9"),
        (b"\xef\xbb\xbfcaf\xe9 au lait", "byte 6 is 0xe9"),
        ("0123456789€".encode()[:-1], "byte 10 is 0xe2"),
        (b"0123456789\xff", "byte 10 is 0xff"),
        ("text".encode("utf-16"), "byte 0 is 0xff"),
        (b"PK\0\3text", "zero byte.*binary"),
        (b"0123456789\xed\xa0\x80", "byte 10 is 0xed"),  # half a surrogate pair
    ],
)
def test_what_is_no_utf8_is_named_with_its_byte(content: bytes, said: str, max_chars: int, tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(FathomError, match=said) as error:
        read(TextFile(path), max_chars)
    assert str(error.value).startswith(str(path))


@given(texts=st.lists(UNICODE))
def test_json_lines_give_their_texts(texts: list[str], tmp_path_factory: Temp) -> None:
    path = tmp_path_factory.getbasetemp() / "texts.jsonl"
    path.write_text("".join(json.dumps({"id": 1, "text": text}) + "\n\n" for text in texts))
    universal = [text.replace("\r\n", "\n").replace("\r", "\n") for text in texts]
    assert read(JSONLines(path)) == [text for text in universal if text]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "not JSON"),
        (b"plain words", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "list; expected an object"),
        (b'"text"', "str; expected an object"),
        (b"{}", "no field 'text', found no field at all"),
        (b'{"texts": "a", "id": 1}', "found 'texts', 'id'; did you mean texts"),
        (b'{"text": null}', "'text' is NoneType"),
        (b'{"text": ["a"]}', "'text' is list"),
        (b'{"text": "\\ud800"}', "surrogate"),
        (b'{"text": "\xff"}', "not UTF-8 at byte 10"),
        (b'{"text": "' + b"a" * 2000 + b'"}', "longer than"),
    ],
)
def test_a_bad_line_is_named_by_its_number(
    line: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "MAX_LINE", 1500 if b"aaa" in line else 1 << 20)
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "good"}\n\n' + line + b'\n{"text": "good"}')
    with pytest.raises(FathomError, match=said) as error:
        read(JSONLines(path))
    assert str(error.value).startswith(f"{path}, line 3:")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [TextFile, JSONLines])
def test_a_file_that_went_away_is_one_line(kind: type[TextFile], tmp_path: Path) -> None:
    with pytest.raises(FathomError, match=r"gone\.txt: cannot be read"):
        read(kind(tmp_path / "gone.txt"))
