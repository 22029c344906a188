"""`fathom merge MODEL ADAPTER`: both as one model that needs no adapter, and how far it is from the two apart."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fathom.cli.options import answer, verb
from fathom.errors import FathomError
from fathom.fields import plain

if TYPE_CHECKING:
    from fathom.adapters.merge import Merged


@verb(
    "merge", "Write MODEL with ADAPTER in its weights: as a run where MODEL is one, else as a folder of Hugging Face."
)
@click.argument("model")
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="A new folder.")
@click.option("--scale", default="1", metavar="X", help="By how much the adapter counts; default 1")
def command(model: str, adapter: Path, out: Path, scale: str, as_json: bool, **call: Any) -> None:
    from fathom.adapters.merge import merge_files

    try:
        factor = float(scale)
    except ValueError:
        raise FathomError(f"--scale is {scale!r}; expected a number") from None
    done = merge_files(model, adapter, out, factor, call["dtype"] or "auto", call["device"] or "auto")
    click.echo(text(done), err=as_json)
    if as_json:
        answer(plain(done))


def text(done: "Merged") -> str:
    """What was written, and how it compares."""
    lines = [f"{done.path}: {'a run of fathom' if done.format == 'run' else 'Hugging Face'}, {done.dtype}"]
    if done.packed:
        lines.append(f"the adapter was trained on the model in {done.packed}: those are the weights it was added to")
    if done.untied:
        lines.append("embed and unembed were one matrix and are two now: the adapter changes one of them")
    lines.append(f"the adapter changes logits by up to {done.effect:.3g}")
    lines.append(f"merged against apart, in fp32: max |dlogit| {done.max_difference:.2e}, KL {done.kl:.2e} nats")
    return "\n".join(lines)
