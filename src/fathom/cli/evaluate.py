"""`fathom eval MODEL --data FILE`: how well a model predicts a text, and the cost of quantising it; `fathom verify`."""

import sys
from contextlib import nullcontext
from typing import Any

from fathom.cli.options import device_option, dtype_option, model_argument, option, print_json, seed_option, verb
from fathom.cli.streams import say
from fathom.errors import FathomError
from fathom.verification.options import EvalOptions

AGAINST = "References: naive, cache, native, transformers or file:OTHER, separated by commas."
PACKINGS = ("int8", "int4", "nf4", "nf4-single")


@verb(
    "verify",
    "Check that a model computes what it should: the same logits without a cache, in plain torch, in another library or"
    " from another file of it.",
    example="fathom verify runs/demo --against naive,transformers",
    hint="--against file:",
)
@model_argument
@option("--against", default="", metavar="NAMES", shown="all that are available", help=AGAINST)
@option("--quantize", metavar="NAME", choices=(*PACKINGS, "keep"), help="Pack the matrices of the blocks first.")
@device_option
@dtype_option
@seed_option
def verify_command(model: str, against: str, quantize: str | None, as_json: bool, seed: int | None, **call: Any) -> int:
    from fathom.verification.verify import verify

    names = [name.strip() for name in against.split(",")] if against else []
    if "" in names:
        raise FathomError(f"--against is {against!r}; expected names separated by commas")
    certificate = verify(model, names, call["dtype"] or "auto", call["device"] or "auto", seed or 0, quantize)
    say(str(certificate), err=as_json)
    if as_json:
        print_json(certificate.plain())
    return 0 if certificate.passed else 1


DATA = "Text, as for fathom train, or records, whose answers are scored."
STRIDE = "Tokens from one window to the next."


@verb(
    "eval",
    "Loss, perplexity, bits per character and byte, and top-1 accuracy of a model on a text or on records.",
    example="fathom eval runs/demo",
    hint="--data",
)
@model_argument
@option("--data", metavar="FILE", shown="of a run its validation part", help=DATA)
@option("--stride", metavar="N", shown="half of the context length", help=STRIDE)
@option("--windows", metavar="N", shown="all", help="Windows or records to score, spread evenly over the data.")
@option("--quantize", metavar="NAME", choices=(*PACKINGS, "all"), help="Compare with weights packed like this.")
@option("--adapter", multiple=True, metavar="FOLDER", help="LoRA adapter to add to the model.")
@device_option
@dtype_option
def eval_command(model: str, data: str | None, adapter: tuple[str, ...], as_json: bool, **call: Any) -> None:
    from fathom.cli.train import watching
    from fathom.verification.prediction import evaluate

    given = {key: call[key] for key in EvalOptions.__dataclass_fields__ if call[key] is not None}
    with watching(model) if sys.stderr.isatty() else nullcontext() as report:
        prediction = evaluate(model, data, adapter, report=report, **given)
    say(str(prediction), err=as_json)
    if as_json:
        print_json(prediction.plain())
