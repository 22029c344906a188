"""`fathom export MODEL`: the same model in another format, read back and compared before it is called done."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fathom.cli.options import print_json, verb
from fathom.fields import plain

if TYPE_CHECKING:
    from fathom.formats.export import Exported
from fathom.errors import FathomError

if TYPE_CHECKING:
    from fathom.adapters.merge import Merged


# `fathom merge MODEL ADAPTER`: both as one model that needs no adapter, and how far it is from the two apart.


@verb(
    "merge", "Write MODEL with ADAPTER in its weights: as a run where MODEL is one, else as a folder of Hugging Face."
)
@click.argument("model")
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="A new folder.")
@click.option("--scale", default="1", metavar="X", help="By how much the adapter counts; default 1")
def merge_command(model: str, adapter: Path, out: Path, scale: str, as_json: bool, **call: Any) -> None:
    from fathom.adapters.merge import merge_files

    try:
        factor = float(scale)
    except ValueError:
        raise FathomError(f"--scale is {scale!r}; expected a number") from None
    done = merge_files(model, adapter, out, factor, call["dtype"] or "auto", call["device"] or "auto")
    click.echo(merge_text(done), err=as_json)
    if as_json:
        print_json(plain(done))


def merge_text(done: "Merged") -> str:
    """What was written, and how it compares."""
    lines = [f"{done.path}: {'a run of fathom' if done.format == 'run' else 'Hugging Face'}, {done.dtype}"]
    if done.packed:
        lines.append(f"the adapter was trained on the model in {done.packed}: those are the weights it was added to")
    if done.untied:
        lines.append("embed and unembed were one matrix and are two now: the adapter changes one of them")
    lines.append(f"the adapter changes logits by up to {done.effect:.3g}")
    lines.append(f"merged against apart, in fp32: max |dlogit| {done.max_difference:.2e}, KL {done.kl:.2e} nats")
    return "\n".join(lines)


QUANTIZE = "gguf: f32, f16, bf16, q8_0 or q4_0; llama2c: q8_0; default: as it is"


@verb("export", "Write a model in another format and compare what was written, tensor by tensor.")
@click.argument("model")
@click.option("--format", "kind", required=True, metavar="NAME", help="hf, gguf, llama2c, llama2c-v1 or meta")
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="A new file; for hf and meta a folder."
)
@click.option("--quantize", metavar="KIND", help=QUANTIZE)
def export_command(model: str, kind: str, out: Path, quantize: str | None, as_json: bool, **call: Any) -> int:
    from fathom.formats.export import export
    from fathom.formats.load import load

    network, tokenizer = load(model, dtype=call["dtype"] or "auto", device=call["device"] or "cpu")
    done = export(network, tokenizer, kind, out, quantize)
    click.echo(text(done), err=as_json)
    if as_json:
        print_json(plain(done) | {"equal": done.equal})
    return 1 if done.tokenizer is False else 0


def text(done: "Exported") -> str:
    """What was written, and how it came back."""
    from fathom.report.table import plain as as_text
    from fathom.report.table import table

    lines = [f"{done.path}: {done.format}, {done.nbytes / 2**20:,.1f} MiB of weights"]
    if done.equal:
        lines.append(f"read back: all {sum(part.tensors for part in done.parts)} tensors equal to the bit")
    else:
        heads = ("read back", "tensors", "equal", "largest error", "relative error")
        rows = [
            (p.name, str(p.tensors), str(p.equal), f"{p.max_error:.2e}", f"{100 * p.relative:.3f} %")
            for p in done.parts
        ]
        lines.append(as_text(table(heads, rows, numbers=(1, 2, 3, 4))).rstrip())
    said = {None: "none", True: "gives the same ids", False: "DIFFERS: do not use it for text"}
    return "\n".join([*lines, f"tokenizer: {said[done.tokenizer]}"])
