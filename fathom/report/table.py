"""Aligned text for a terminal. Does not print: gives what is printed, or the plain text of it."""

import io
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> Table:
    """A table without walls; the columns `numbers` are aligned right. Cells are text, never markup."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for column, head in enumerate(heads):
        right = column in numbers
        made.add_column(Text(head), justify="right" if right else "left", no_wrap=right)
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def plain(shown: RenderableType, width: int = 112) -> str:
    """What a terminal of this width would show, without colours and without spaces at the ends of lines."""
    buffer = io.StringIO()
    Console(file=buffer, width=width, color_system=None, force_terminal=False).print(shown)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"
