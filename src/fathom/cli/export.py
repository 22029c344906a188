"""`fathom export MODEL`: the same model in another format, read back and compared; and `fathom merge MODEL ADAPTER`:
both as one model that needs no adapter, compared with the two run unmerged.
"""

from pathlib import Path
from typing import Any

import click

from fathom.cli.options import print_json, verb
from fathom.errors import FathomError
from fathom.fields import plain

QUANTIZE = "gguf: f32, f16, bf16, q8_0 or q4_0; llama2c: q8_0; default: as it is"


@verb(
    "merge", "Write MODEL with ADAPTER in its weights: as a run where MODEL is one, else as a folder of Hugging Face."
)
@click.argument("model")
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="A new folder.")
@click.option("--scale", default="1", metavar="X", help="By how much the adapter counts; default 1")
def merge_command(model: str, adapter: Path, out: Path, scale: str, as_json: bool, **call: Any) -> None:
    from fathom.adapters.merge import merge

    try:
        factor = float(scale)
    except ValueError:
        raise FathomError(f"--scale is {scale!r}; expected a number") from None
    merged = merge(model, adapter, out, factor, call["dtype"] or "auto", call["device"] or "auto")
    click.echo(str(merged), err=as_json)
    if as_json:
        print_json(plain(merged))


@verb("export", "Write a model in another format and compare what was written, tensor by tensor.")
@click.argument("model")
@click.option("--format", "kind", required=True, metavar="NAME", help="hf, gguf, llama2c, llama2c-v1 or meta")
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="A new file; for hf and meta a folder."
)
@click.option("--quantize", metavar="KIND", help=QUANTIZE)
def export_command(model: str, kind: str, out: Path, quantize: str | None, as_json: bool, **call: Any) -> int:
    from fathom.formats.export import export

    dtype, device = call["dtype"] or "auto", call["device"] or "cpu"
    exported = export(model, out, kind, quantize, dtype=dtype, device=device)
    click.echo(str(exported), err=as_json)
    if as_json:
        print_json(plain(exported) | {"equal": exported.equal})
    return 1 if exported.tokenizer is False else 0
