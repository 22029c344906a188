"""`fathom prepare DATA… --tokenizer T -o tokens/`: text of any size as tokens on disk. Does not import torch."""

from pathlib import Path
from typing import Any

import click

from fathom.cli.options import WholeNumber, option, print_json, verb
from fathom.cli.streams import say
from fathom.errors import FathomError

ABOUT = """Turn text of any size into tokens on disk, which fathom train and finetune read where they are.

DATA are files (.txt, .jsonl, .parquet; .gz and .zst), folders, or data sets of the hub (org/name). With weights, as in
books=0.7 web=0.3, they are shares of what is trained on. The same command goes on where it was stopped.
"""
TOKENIZER = "A tokenizer's file or folder, a model, byte, or char and bpe:SIZE, which are learned from the text."
VAL = "Fraction of the documents that is held out, by a hash of their text."


@verb("prepare", ABOUT, example="fathom prepare books web.jsonl.zst --tokenizer bpe:32000 -o tokens")
@click.argument("data", nargs=-1, required=True)
@option("--tokenizer", required=True, metavar="NAME", help=TOKENIZER)
@option("-o", "--out", required=True, type=click.Path(path_type=Path), metavar="FOLDER", help="Folder of the tokens.")
@option("--workers", type=WholeNumber(1), metavar="N", shown="one a core", help="Number of processes.")
@option("--val-fraction", default="0.01", metavar="X", shown="0.01", help=VAL)
@option("--field", default="text", metavar="NAME", shown="text", help="Field or column of records with the text.")
@option("--keep", is_flag=True, help="Keep files of the hub in its cache after they were read.")
def prepare_command(data: tuple[str, ...], tokenizer: str, out: Path, val_fraction: str, **call: Any) -> int:
    from fathom.cli.train import watching
    from fathom.training.prepare import prepare

    try:
        fraction = float(val_fraction)
    except ValueError:
        raise FathomError(f"--val-fraction is {val_fraction!r}; expected a number, such as 0.01") from None
    options = {"workers": call["workers"], "field": call["field"], "keep": call["keep"]}
    with watching(out) as report:
        prepared = prepare(data, tokenizer, out, report=report, val_fraction=fraction, **options)
    say(str(prepared), err=call["as_json"] or prepared.exit_code != 0)
    if call["as_json"]:
        print_json(prepared.plain())
    return prepared.exit_code
