"""`fathom extract BASE TUNED`: the best adapter of a full fine-tune, by singular value decomposition."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fathom.cli.options import answer, verb
from fathom.fields import plain

if TYPE_CHECKING:
    from fathom.lab.extract import Extracted


@verb(
    "extract",
    "Write the best rank-R adapter of a full fine-tune as a PEFT folder, and how much of the change it holds.",
)
@click.argument("base")
@click.argument("tuned")
@click.option("-r", "--rank", type=int, default=8, show_default=True, help="Of each matrix.")
@click.option("--target", "layers", multiple=True, metavar="NAME", help="Layers such as attn.q; default all-linear.")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="The adapter's folder.")
def command(base: str, tuned: str, rank: int, layers: tuple[str, ...], out: Path, as_json: bool, **_: Any) -> None:
    from fathom.lab.extract import extract

    done = extract(base, tuned, rank, out, layers or ("all-linear",))
    click.echo(text(done), err=as_json)
    if as_json:
        answer(plain(done) | {"error": done.error})


def text(done: "Extracted") -> str:
    """What was written and what it leaves out."""
    from fathom.report.table import plain as as_text
    from fathom.report.table import table

    heads = ("tensor", "shape", "|ΔW| / |W|", "rank", "error")
    rows = [
        (
            p.name,
            " x ".join(map(str, p.shape)),
            f"{p.relative:.4f}",
            f"{p.rank}" if p.rank else "none",
            f"{p.error:.1%}",
        )
        for p in done.parts
    ]
    left = sum(not part.rank for part in done.parts)
    lines = [
        as_text(table(heads, rows, (1, 2, 3, 4)), 120).rstrip(),
        f"error is |ΔW - ΔW_r| / |ΔW|; {done.error:.1%} for all that was changed together",
        *([f"{left} changed tensors have rank none: they are not in the adapter"] if left else []),
        *done.notes,
        f"{done.folder}: rank {done.rank}, {done.parameters:,} numbers",
    ]
    return "\n".join(lines)
