"""Tables for a terminal, as rich renderables or as plain text."""

import io
from collections.abc import Iterable, Sequence

from rich import box
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


def plain(renderable: RenderableType, width: int = 112) -> str:
    """The text that a terminal of this width shows, without colours and trailing spaces."""
    buffer = io.StringIO()
    Console(file=buffer, width=width, color_system=None, force_terminal=False).print(renderable)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"
