"""`fathom export MODEL`: the same model in another format, read back and compared; and `fathom merge MODEL ADAPTER`:
both as one model that needs no adapter, compared with the two run unmerged.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fathom.cli.options import print_json, verb
from fathom.errors import FathomError
from fathom.fields import plain

if TYPE_CHECKING:
    from fathom.adapters.merge import Merged
    from fathom.formats.export import Exported

QUANTIZE = "gguf: f32, f16, bf16, q8_0 or q4_0; llama2c: q8_0; default: as it is"


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
    merged = merge_files(model, adapter, out, factor, call["dtype"] or "auto", call["device"] or "auto")
    click.echo(merged_text(merged), err=as_json)
    if as_json:
        print_json(plain(merged))


def merged_text(merged: "Merged") -> str:
    """What was written, and how it compares."""
    lines = [f"{merged.path}: {'a run of fathom' if merged.format == 'run' else 'Hugging Face'}, {merged.dtype}"]
    if merged.packed:
        lines.append(f"the adapter was trained on the model in {merged.packed}: those are the weights it was added to")
    if merged.untied:
        lines.append("embed and unembed were one matrix and are two now: the adapter changes one of them")
    lines.append(f"the adapter changes logits by up to {merged.effect:.3g}")
    lines.append(f"merged against unmerged, in fp32: max |dlogit| {merged.max_difference:.2e}, KL {merged.kl:.2e} nats")
    return "\n".join(lines)


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
    exported = export(network, tokenizer, kind, out, quantize)
    click.echo(exported_text(exported), err=as_json)
    if as_json:
        print_json(plain(exported) | {"equal": exported.equal})
    return 1 if exported.tokenizer is False else 0


def exported_text(exported: "Exported") -> str:
    """What was written, and how it was read back."""
    from fathom.report.table import plain as text
    from fathom.report.table import table

    lines = [f"{exported.path}: {exported.format}, {exported.nbytes / 2**20:,.1f} MiB of weights"]
    if exported.equal:
        lines.append(f"read back: all {sum(part.tensors for part in exported.parts)} tensors equal to the bit")
    else:
        heads = ("read back", "tensors", "equal", "largest error", "relative error")
        rows = [
            (p.name, str(p.tensors), str(p.equal), f"{p.max_error:.2e}", f"{100 * p.relative:.3f} %")
            for p in exported.parts
        ]
        lines.append(text(table(heads, rows, numbers=(1, 2, 3, 4))).rstrip())
    tokenizer = {None: "none", True: "gives the same ids", False: "DIFFERS: do not use it for text"}
    return "\n".join([*lines, f"tokenizer: {tokenizer[exported.tokenizer]}"])
