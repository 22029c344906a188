"""Self-contained HTML pages: tags, tables, code and figures in one file, everything escaped.

A str is text and is escaped; `Html`, which the functions here return, is not. Pages follow the reader's light or dark
theme and fit a phone.
"""

from __future__ import annotations

import base64
import html
import io
import keyword
import tokenize
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fathom.report.plot import DARK, LIGHT, Theme, png

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Html(str):
    """Text that is HTML already and must not be escaped again."""


def escaped(text: str) -> Html:
    """The text as HTML; `Html` as it is."""
    return text if isinstance(text, Html) else Html(html.escape(text))


def join(*parts: str) -> Html:
    """Parts one after the other."""
    return Html("".join(escaped(part) for part in parts))


def tag(name: str, *children: str, **attributes: str) -> Html:
    """`<name attribute="value">children</name>`; `class_` is `class`."""
    given = "".join(f' {key.rstrip("_")}="{html.escape(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{given}>{join(*children)}</{name}>")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> Html:
    """A table that scrolls sideways within itself; the columns `numbers` are aligned right."""

    def cells(name: str, row: Sequence[str]) -> Html:
        kinds = ("number" if column in numbers else "text" for column in range(len(row)))
        return tag("tr", *(tag(name, cell, class_=kind) for cell, kind in zip(row, kinds)))

    body = join(*(cells("td", row) for row in rows))
    return tag("div", tag("table", tag("thead", cells("th", heads)), tag("tbody", body)), class_="scroll")


NARROW = 4.1  # inches of a figure on a phone


def figure(draw: Callable[[Theme], Figure], caption: str) -> Html:
    """The figure in the reader's theme, narrower on a phone; `caption` is also its text alternative."""

    def drawn(theme: Theme, narrow: bool) -> str:
        made = draw(theme)
        if narrow:
            made.set_size_inches(NARROW, made.get_figheight())
        return f"data:image/png;base64,{base64.b64encode(png(made)).decode()}"

    dark, phone = "(prefers-color-scheme: dark)", "(max-width: 34rem)"
    sources = join(
        *(
            Html(f'<source media="{media}" srcset="{drawn(theme, narrow)}">')
            for media, theme, narrow in (
                (f"{phone} and {dark}", DARK, True),
                (phone, LIGHT, True),
                (dark, DARK, False),
            )
        )
    )
    image = f'<img src="{drawn(LIGHT, False)}" alt="{html.escape(caption)}">'
    return Html(f"<figure><picture>{sources}{image}</picture><figcaption>{escaped(caption)}</figcaption></figure>")


def code(source: str) -> Html:
    """Python source with syntax highlighting; plain text where it is not complete Python."""
    try:
        inside = Html("".join(_highlighted(source)))
    except (tokenize.TokenError, SyntaxError):
        inside = escaped(source)
    return tag("pre", tag("code", inside))


def _highlighted(source: str) -> Iterable[str]:
    lines, row, column = [*io.StringIO(source), ""], 1, 0

    def until(end_row: int, end_column: int) -> str:
        nonlocal row, column
        covered = [*lines[row - 1 : end_row - 1], lines[end_row - 1][:end_column]]
        covered[0], row, column = covered[0][column:], end_row, end_column
        return html.escape("".join(covered))

    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        yield until(*token.start)
        text, kind = until(*token.end), _kind(token)
        yield f'<span class="{kind}">{text}</span>' if kind else text
    yield until(len(lines), 0)


def _kind(token: tokenize.TokenInfo) -> str:
    if token.type == tokenize.NAME:
        return "keyword" if keyword.iskeyword(token.string) else ""
    return {tokenize.COMMENT: "comment", tokenize.STRING: "string"}.get(token.type, "")


def folded(title: str, *children: str, id: str = "", level: str = "h2") -> Html:
    """A section that opens when its heading is clicked, or when a link leads into it."""
    heading = tag(level, title, **({"id": id} if id else {}))
    return tag("details", tag("summary", heading), *children, class_="fold")


def found(title: str, sentence: str, *figure: str) -> Html:
    """The first screen of a report: its title, what was found in one sentence, and the figure that shows it."""
    return tag("section", tag("h1", title), tag("p", sentence, class_="headline"), *figure, class_="found")


BRAND = tag("header", tag("b", "Fathom"), " what a model learned, measured", class_="brand")

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # a browser runs and fetches nothing


def page(title: str, *body: str, renewed: int | None = None) -> str:
    """A whole HTML document. renewed: seconds after which a browser reads it again; None: never."""
    head = join(
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{html.escape(POLICY)}">'),
        Html('<meta name="color-scheme" content="light dark">'),
        Html(f'<meta http-equiv="refresh" content="{renewed}">' if renewed else ""),
        tag("title", title),
        Html(f"<style>{style()}</style>"),
    )
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{BRAND}<main>{join(*body)}</main></body></html>\n'
    )


GLASS = (  # colours of the glass page (web/src/theme.css), so that there is one look: light, dark
    {"page": "#f7f8f8", "accent": "#0b6478", "accent-soft": "#d9eef2"},
    {"page": "#11161b", "accent": "#58c7dc", "accent-soft": "#17414b"},
)


def style() -> str:
    """The one style sheet: the theme's colours, then page.css."""

    def colours(theme: Theme) -> str:
        named = {name: value for name, value in vars(theme).items() if name != "series"} | GLASS[theme == DARK]
        named |= {f"series-{i}": colour for i, colour in enumerate(theme.series)}
        return ":root{" + "".join(f"--{name}:{value};" for name, value in named.items()) + "}"

    sheet = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return f"{colours(LIGHT)}@media (prefers-color-scheme: dark){{{colours(DARK)}}}\n{sheet}"
