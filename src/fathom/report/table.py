"""Tables for a terminal, as rich renderables or as plain text."""

import io
import shutil
from collections.abc import Iterable, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> Table:
    """A table without borders; the columns `numbers` are aligned right. Cells are text, never markup."""
    result = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for column, head in enumerate(heads):
        right = column in numbers
        result.add_column(Text(head), justify="right" if right else "left", no_wrap=right)
    for row in rows:
        result.add_row(*(Text(cell) for cell in row))
    return result


def plain(renderable: RenderableType, width: int = 0) -> str:
    """The text that a terminal of this width shows, without colours and trailing spaces.

    width: 0 is that of this terminal, but at least 80 columns; 112 where there is none.
    """
    buffer = io.StringIO()
    width = width or max(80, shutil.get_terminal_size((112, 24)).columns)
    Console(file=buffer, width=width, color_system=None, force_terminal=False).print(renderable)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def in_lines(pieces: Iterable[Text], width: int) -> Text:
    """Pieces one after another, with a new line before one that would not end within the width; 0 is any width."""
    row, at = Text(), 0
    for piece in pieces:
        *whole, last = piece.plain.split("\n")
        first = cell_len(whole[0] if whole else last)
        if width and at and at + first > width:
            row.append("\n")
            at = 0
        row.append_text(piece)
        at = cell_len(last) if whole else at + first
    return row
