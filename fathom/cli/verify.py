"""`fathom verify MODEL`: a certificate that the model computes what it should; exit code 1 where it does not."""

from typing import Any

import click

from fathom.cli.options import answer, verb
from fathom.errors import FathomError

AGAINST = "naive, cache, native, transformers, file:OTHER, separated by commas; default: all that are at hand"


@verb("verify", "Compare a model with other ways to compute it, other libraries or other files of it.")
@click.argument("model")
@click.option("--against", default="", metavar="NAMES", help=AGAINST)
@click.option("--quantize", metavar="KIND", help="Pack the matrices of the blocks as int8, int4 or nf4 first.")
def command(model: str, against: str, quantize: str | None, as_json: bool, seed: int | None, **call: Any) -> int:
    from fathom.verify.verify import verify

    names = [name.strip() for name in against.split(",")] if against else []
    if "" in names:
        raise FathomError(f"--against is {against!r}; expected names separated by commas")
    certificate = verify(model, names, call["dtype"] or "auto", call["device"] or "auto", seed or 0, quantize)
    click.echo(certificate.text(), err=as_json)
    if as_json:
        answer(certificate.plain())
    return 0 if certificate.passed else 1
