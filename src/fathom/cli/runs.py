"""`fathom runs [FOLDER ...]`: the runs below a folder, and several on one picture. Does not import torch."""

from pathlib import Path
from typing import Any

import click

from fathom.cli.options import option, print_json, verb
from fathom.cli.streams import say
from fathom.errors import FathomError
from fathom.fields import plain

PLOT = "Draw the validation losses of these runs into FILE, a .png or .svg."


@verb(
    "runs",
    "List the runs below a folder: model, data, steps, best validation loss, and the formats they export to.",
    example="fathom runs runs/demo runs/docs --plot both.png",
)
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path), metavar="[FOLDER]...")
@option("--plot", type=click.Path(path_type=Path), metavar="FILE", help=PLOT)
def runs_command(folders: tuple[Path, ...], plot: Path | None, as_json: bool, **_: Any) -> None:
    from fathom.training.runs import find_runs

    places = folders or (Path("runs") if Path("runs").is_dir() else Path(),)
    found = list(dict.fromkeys(run for place in places for run in find_runs(place)))
    if not found:
        raise FathomError(f"no runs below {', '.join(map(str, places))}; start one: fathom train demo")
    rows, damaged = summaries(found)
    if plot is not None:
        draw(found, plot)
    if as_json:
        print_json({"runs": [plain(row) for row in rows], "damaged": damaged, "plot": plot and str(plot)})
        return
    say(text(rows).rstrip())
    for line in damaged:
        say(line, err=True)
    if plot is not None:
        say(f"plot: {plot}")


def summaries(found: list[Path]) -> tuple[list[Any], list[str]]:
    """The summaries of the runs, and a line for each that cannot be read."""
    from fathom.training.runs import summarise

    rows, damaged = [], []
    for run in found:
        try:
            rows.append(summarise(run))
        except FathomError as problem:
            damaged.append(f"{run} is left out: {problem}")
    return rows, damaged


def text(rows: list[Any]) -> str:
    from fathom.report.table import plain as as_text
    from fathom.report.table import table

    cells = []
    for row in rows:
        best = "" if row.best_loss is None else f"{row.best_loss:.4f} at {row.best_step:,}"
        data = row.data if len(row.data) < 24 else f"…{row.data[-22:]}"
        model = f"{row.model}, {row.parameters:,}" + ("" if row.kind == "train" else f"; {row.kind}")
        cells.append((row.path, model, data, f"{row.step:,}", best, ", ".join(row.exports) or "nothing"))
    heads = ("run", "model, parameters", "data", "steps", "best loss", "exports to")
    return as_text(table(heads, cells, numbers=(3, 4)))


def draw(found: list[Path], path: Path) -> None:
    """The validation losses on one picture."""
    from fathom.report.plot import Curve, curves, save
    from fathom.training.runs import curves_of

    if path.suffix not in (".png", ".svg"):
        raise FathomError(f"--plot is {path}; expected a file that ends in .png or .svg")
    label, lines = curves_of(found)
    drawn = [
        Curve(name, [step for step, _ in points], [loss for _, loss in points], colour=place)
        for place, (name, points) in enumerate(lines)
    ]
    save(curves(drawn, "step", label), path)
