"""`fathom replay RUN --step N`: one step of a run again, and what it was made of."""

from pathlib import Path
from typing import Any

import click

from fathom.cli.options import WholeNumber, option, print_json, verb
from fathom.cli.streams import say
from fathom.errors import FathomError

ABOUT = """Make one step of a run again: its batch, the loss of each token, and the gradient of each part.

It starts at the newest checkpoint before the step, or at the first weights, and changes nothing in the run's folder.
Exit code 1 when loss or gradient norm are not those that the run wrote, to the bit.
"""
LOOK = "Also write a page of the model as it was before the step, for one row of the batch."


@verb("replay", ABOUT, example="fathom replay runs/demo --step 120")
@click.argument("run", type=click.Path(path_type=Path))
@option("--step", type=WholeNumber(1), required=True, metavar="N", help="Step to make again, counted from 1.")
@option("--look", "page", type=click.Path(path_type=Path), metavar="FILE.html", help=LOOK)
@option("--row", type=WholeNumber(0), metavar="N", shown="0", help="Row of the batch for --look, counted from 0.")
def replay_command(run: Path, step: int, page: Path | None, row: int | None, as_json: bool, **call: Any) -> int:
    if page is not None and (page.suffix not in (".html", ".htm") or page.is_dir()):
        raise FathomError(f"--look is {page}; expected the name of a file that ends in .html")
    from fathom.training.replay import replay

    replayed = replay(run, step)
    say(str(replayed), err=as_json)
    if page is not None:
        write_page(replayed, page, row or 0)
    if as_json:
        print_json(replayed.to_json())
    return int(replayed.recorded is not None and not replayed.equal)


def write_page(replayed: Any, page: Path, row: int) -> None:
    """The page of a row of the batch, with the weights before the step."""
    from fathom.cli.look import slow_progress
    from fathom.files import replacing
    from fathom.glass.document import document
    from fathom.glass.passes import Pass
    from fathom.glass.subject import Subject

    if not 0 <= row < len(replayed.rows):
        raise FathomError(f"--row is {row}; the batch has rows 0 to {len(replayed.rows) - 1}")
    subject = Subject(f"{replayed.folder} before step {replayed.step}", replayed.model, replayed.tokenizer)
    ids = replayed.ids[row : row + 1, : len(replayed.rows[row].tokens)]
    made = document(Pass(subject, ids), (), "".join(replayed.rows[row].tokens), slow_progress())
    with replacing(page) as file:
        file.write(made.html.encode())
    say(f"{page}: row {row} of the batch", err=True)
