"""Pages: nothing fetched, everything escaped, text unchanged by its colours."""

import base64
import inspect
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fathom.model.attention
from fathom.report.html import Html, code, escaped, figure, join, page, table, tag
from fathom.report.plot import Row, bars

EVIL = "<script>alert('&')</script>\""
VOID = {"meta", "img", "source"}


class Reader(HTMLParser):
    """What a browser sees: text, and whether every tag that opens is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(name)
        self.open += [] if name in VOID else [name]

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        self.text += data


def everything() -> str:
    drawn = figure(lambda theme: bars([Row("a", 1.0)], "x", theme), EVIL)
    return page(EVIL, tag("h1", EVIL, id=EVIL), table([EVIL], [[EVIL]]), code(EVIL), drawn, tag("p", EVIL))


def test_tags_balance_and_nothing_is_smuggled_in() -> None:
    reader = Reader(everything())
    assert reader.open == []
    assert "script" not in reader.names
    assert reader.text.count(EVIL) == 7  # title, h1, table head and cell, code, figure caption, p


def test_nothing_is_fetched() -> None:
    found = re.findall(r"(?:src|srcset|href|url)\s*[=(]\s*[\"']?([^\"'\s)]{5})", everything())
    assert len(found) == 4 and set(found) == {"data:"}
    assert "@import" not in everything()


def test_pictures_are_pngs_for_light_and_dark_and_for_phones() -> None:
    images = [base64.b64decode(data) for data in re.findall(r"data:image/png;base64,([\w+/=]+)", everything())]
    assert len({*images}) == 4
    assert all(image.startswith(b"\x89PNG") for image in images)


def test_html_is_escaped_once() -> None:
    assert escaped("<") == "&lt;" == escaped(escaped("<"))
    assert join("<", Html("<b>")) == "&lt;<b>"
    assert tag("p", tag("b", "&")) == "<p><b>&amp;</b></p>"


def test_numbers_stand_right() -> None:
    assert 'td class="number">1' in table(["a", "b"], [["x", "1"]], numbers=[1])


@pytest.mark.parametrize(
    "source",
    [
        inspect.getsource(fathom.model.attention),
        "x = (1,\n",
        "",
        "s = '''a\n  b'''  # c",
        "if a:\n\tb = 1  # é <&>\n",
    ],
)
def test_colour_changes_no_character_of_the_code(source: str) -> None:
    assert Reader(code(source)).text == source


def test_words_are_coloured() -> None:
    shown = code("def f():  # why\n    return 'x'\n")
    assert '<span class="keyword">def</span>' in shown
    assert '<span class="comment"># why</span>' in shown
    assert '<span class="string">&#x27;x&#x27;</span>' in shown


@given(st.text())
def test_any_text_survives(text: str) -> None:
    clean = text.replace("\r", "")
    assert Reader(tag("p", clean)).text == clean
    assert Reader(code(clean)).text == clean
