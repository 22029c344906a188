"""JSON that is none, too large, too deep, or of other kinds than was requested."""

from pathlib import Path
from typing import Any

import pytest

from fathom.errors import FathomError
from fathom.json_file import field, parse_object, read_object, short

VALUES = parse_object(b'\xef\xbb\xbf{"a": 3, "b": 2.5, "c": true, "d": "x", "e": null}', "f")  # with Windows' mark
DEEP = '{"a": ' + "[" * 800 + "]" * 800 + "}"
NONE = ["", "[1]", "{", "null", "[" * 100_000, DEEP, '{"a": Infinity}', '{"a": -NaN}', '{"a":' + "9" * 5000 + "}"]


@pytest.mark.parametrize("text", NONE)
def test_no_object(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(FathomError, match=r"config\.json (is not JSON|holds)"):
        read_object(tmp_path / "config.json")


def test_larger_than_any_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b" " * (1 << 22))
    with pytest.raises(FathomError, match="has 4194304 bytes; expected a JSON file of at most 2097152"):
        read_object(tmp_path / "config.json")


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: None], ids=["folder", "missing"])
def test_no_file(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "a")
    with pytest.raises(FathomError, match=r"a cannot be read \("):
        read_object(tmp_path / "a")


@pytest.mark.parametrize(
    "name, kind, value", [("a", int, 3), ("a", float, 3.0), ("b", float, 2.5), ("c", bool, True), ("d", str, "x")]
)
def test_a_field_is_of_the_kind_that_was_asked_for(name: str, kind: Any, value: Any) -> None:
    found = field(VALUES, name, kind, "f")
    assert found == value and type(found) is kind
    assert field(VALUES, "e", kind, "f", value) == value


@pytest.mark.parametrize("name, kind", [("b", int), ("c", int), ("c", float), ("d", float), ("a", bool), ("a", str)])
def test_a_field_of_another_kind(name: str, kind: Any) -> None:
    with pytest.raises(FathomError, match=f"f: {name} is .*; expected"):
        field(VALUES, name, kind, "f")


def test_what_an_error_shows_is_never_long() -> None:
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    assert max(len(short(value)) for value in (deep, "x" * 10_000, list(range(10_000)), {"a": deep})) < 100
