"""A stream told to a reader: rows one after another, in order, each as early as it can be.

The first row is shown as it is written; what the rows after it have written meanwhile waits until it is their turn.
Does not know where the text goes.
"""

from collections.abc import Callable

from fathom.generate.generate import Stream
from fathom.generate.pieces import Completion, Piece, complete

BETWEEN = "\n\n---\n\n"  # between one row and the next


def tell(stream: Stream, write: Callable[[str], None], echo: bool = True) -> list[Completion]:
    """Run `stream` and give `write` the text of each row, after its prompt if `echo`; returns the completions."""
    waiting = [[BETWEEN * (row > 0) + prompt * echo] for row, prompt in enumerate(stream.prompts)]
    pieces: list[Piece] = []
    ended: set[int] = set()
    turn = show(waiting, ended, 0, write)
    for piece in stream:
        pieces.append(piece)
        waiting[piece.row].append(piece.text)
        if piece.finish_reason:
            ended.add(piece.row)
        turn = show(waiting, ended, turn, write)
    return complete(pieces, stream.prompts)


def show(waiting: list[list[str]], ended: set[int], turn: int, write: Callable[[str], None]) -> int:
    """Write what waits of the row whose turn it is, and once it has ended of those after it; returns the new turn."""
    while turn < len(waiting):
        if text := "".join(waiting[turn]):
            write(text)
        waiting[turn].clear()
        if turn not in ended:
            break
        turn += 1
    return turn
