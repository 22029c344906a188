"""`fathom export MODEL`: the same model in another format, read back and compared; `fathom eject MODEL`: as one file of
Python; and `fathom merge MODEL ADAPTER`: both as one model that needs no adapter, compared with the two run unmerged.
"""

from pathlib import Path
from typing import Any

import click

from fathom.cli.options import device_option, dtype_option, model_argument, option, print_json, verb
from fathom.cli.streams import say
from fathom.errors import FathomError
from fathom.fields import plain

FORMATS = ("hf", "gguf", "llama2c", "llama2c-v1", "meta")
QUANTIZE = (
    "Number format in the file; gguf: f32, f16, bf16, q8_0, q6_k, q5_k_m, q5_k_s, q4_k_m, q4_k_s or q4_0;"
    " llama2c: q8_0."
)


@verb(
    "merge",
    "Add a LoRA adapter to the weights of a model: a run stays a run, other models become a Hugging Face folder.",
    example="fathom merge runs/demo runs/finetune/adapter -o merged",
)
@model_argument
@click.argument("adapter", type=click.Path(path_type=Path))
@option("-o", "--out", required=True, type=click.Path(path_type=Path), metavar="FOLDER", help="New folder.")
@option("--scale", default="1", metavar="X", shown="1", help="Factor of the adapter's change.")
@device_option
@dtype_option
def merge_command(model: str, adapter: Path, out: Path, scale: str, as_json: bool, **call: Any) -> None:
    from fathom.adapters.merge import merge

    try:
        factor = float(scale)
    except ValueError:
        raise FathomError(f"--scale is {scale!r}; expected a number") from None
    merged = merge(model, adapter, out, factor, call["dtype"] or "auto", call["device"] or "auto")
    say(str(merged), err=as_json)
    if as_json:
        print_json(plain(merged))


@verb(
    "export",
    "Write a model in another format, read it back and compare every tensor.",
    example="fathom export runs/demo --format gguf -o demo.gguf",
)
@model_argument
@option("--format", "kind", required=True, metavar="NAME", choices=FORMATS, help="Format to write.")
@option("-o", "--out", required=True, type=click.Path(path_type=Path), help="New file; for hf and meta a folder.")
@option("--quantize", metavar="NAME", shown="as it is", help=QUANTIZE)
@device_option
@dtype_option
def export_command(model: str, kind: str, out: Path, quantize: str | None, as_json: bool, **call: Any) -> int:
    from fathom.adapters.export import export

    dtype, device = call["dtype"] or "auto", call["device"] or "cpu"
    exported = export(model, out, kind, quantize, dtype=dtype, device=device)
    say(str(exported), err=as_json)
    if as_json:
        print_json(plain(exported) | {"equal": exported.equal})
    return 1 if exported.tokenizer is False else 0


@verb(
    "eject",
    "Write a model as one readable Python file that needs torch alone: forward pass, cache, sampling, loading.",
    example="fathom eject runs/demo -o mygpt.py",
)
@model_argument
@option(
    "-o",
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE.py",
    help="New file; weights go beside it.",
)
@option("--training", is_flag=True, help="With a training loop.")
def eject_command(model: str, out: Path, training: bool, as_json: bool, **call: Any) -> None:
    from fathom.one_file.eject import eject

    ejected = eject(model, out, training)
    say(str(ejected), err=as_json)
    if as_json:
        print_json(plain(ejected))
