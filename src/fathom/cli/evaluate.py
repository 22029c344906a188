"""`fathom eval MODEL --data FILE`: how well a model predicts a text, and the cost of quantising it; `fathom verify`."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from fathom.cli.options import device_option, dtype_option, model_argument, option, print_json, seed_option, verb
from fathom.errors import FathomError

if TYPE_CHECKING:
    from fathom.verification.evaluate import Evaluation
    from fathom.verification.quantised import SchemeReport, Scores


AGAINST = "References: naive, cache, native, transformers or file:OTHER, separated by commas."
PACKINGS = ("int8", "int4", "nf4", "nf4-single")


@verb(
    "verify",
    "Check that a model computes what it should: the same logits without a cache, in plain torch, in another library or"
    " from another file of it.",
    example="fathom verify runs/demo --against naive,transformers",
)
@model_argument
@option("--against", default="", metavar="NAMES", shown="all that are available", help=AGAINST)
@option("--quantize", metavar="NAME", choices=PACKINGS, help="Pack the matrices of the blocks first.")
@device_option
@dtype_option
@seed_option
def verify_command(model: str, against: str, quantize: str | None, as_json: bool, seed: int | None, **call: Any) -> int:
    from fathom.verification.verify import verify

    names = [name.strip() for name in against.split(",")] if against else []
    if "" in names:
        raise FathomError(f"--against is {against!r}; expected names separated by commas")
    certificate = verify(model, names, call["dtype"] or "auto", call["device"] or "auto", seed or 0, quantize)
    click.echo(certificate.text(), err=as_json)
    if as_json:
        print_json(certificate.plain())
    return 0 if certificate.passed else 1


MEETS = "with x in 8 bits and unembed in int8"
TORCH = "the same weights, unpacked, with x and unembed in floats"


DATA = "Text, as for fathom train, or records, whose answers are scored."
STRIDE = "Tokens from one window to the next."


@verb(
    "eval",
    "Loss, perplexity, bits per character and byte, and top-1 accuracy of a model on a text or on records.",
    example="fathom eval runs/demo --data FILE.txt",
)
@model_argument
@option("--data", required=True, metavar="FILE", help=DATA)
@option("--stride", metavar="N", shown="half of the context length", help=STRIDE)
@option("--windows", metavar="N", shown="all", help="Windows or records to score, spread evenly over the data.")
@option("--quantize", metavar="NAME", choices=(*PACKINGS, "all"), help="Compare with weights packed like this.")
@option("--adapter", multiple=True, metavar="FOLDER", help="LoRA adapter to add to the model.")
@device_option
@dtype_option
def eval_command(
    model: str, data: str, stride: str | None, windows: str | None, quantize: str | None, as_json: bool, **call: Any
) -> None:
    from fathom.adapters.load import load
    from fathom.cli.generation import describe_run
    from fathom.formats.tokenizer import require_tokenizer
    from fathom.verification import quantised
    from fathom.verification.evaluate import eval_set

    limits = whole("stride", stride), whole("windows", windows)
    schemes = quantised.schemes(quantize) if quantize is not None else []
    if quantize is not None:
        require_floats(model, quantize, call["adapter"])
    network, its_tokenizer = load(model, call["dtype"] or "auto", call["device"] or "auto", adapter=call["adapter"])
    tokenizer = require_tokenizer(its_tokenizer, model)
    asked = eval_set(data, tokenizer, network.config.context_length, *limits)
    packed = [quantised.packed_copy(network, scheme) for scheme in schemes]
    shown = click.progressbar(asked.windows, length=asked.count, file=sys.stderr, hidden=not sys.stderr.isatty())
    with shown as batches:
        own, *others = quantised.score_all([network, *packed], batches, tokenizer)
    reports = [quantised.report(network, *row) for row in zip(packed, schemes, others)]
    size = quantised.nbytes(network)
    runs = ", ".join(filter(None, [describe_run(network, call | {"quantize": None, "draft": None}), native([own])]))
    lines = [f"{model}: {runs}", f"{data}: {asked.description}", "", text(own, asked.count)]
    lines += [compared(own.torch, size, reports), errors(reports)] if reports else []
    click.echo("\n".join(lines).rstrip(), err=as_json)
    if as_json:
        facts = {
            "model": model,
            "data": data,
            "about": asked.description,
            "windows": asked.count,
            "stride": asked.stride,
        }
        rows = [report.plain(own.torch) for report in reports]
        in_use = native([own, *others])
        print_json(facts | plain(own) | {"model_bytes": size, "native": in_use, "quantised": rows})


def require_floats(model: str, quantize: str, adapter: Sequence[str]) -> None:
    """FathomError for a run on packed weights, which has no floats to compare with."""
    from fathom.adapters.load import adapted_run

    run = None if adapter else adapted_run(model)
    if run is not None and run.quantize is not None:
        raise FathomError(
            f"{model} is packed in {run.quantize}, as it was trained; expected floats to compare --quantize with; leave"
            f" it out, or say fathom eval {run.base} --adapter {run.adapter} --quantize {quantize}"
        )


def whole(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise FathomError(f"--{name} is {text!r}; expected a whole number from 1")
    return int(text)


def plain(own: "Scores") -> dict[str, Any]:
    """JSON values; an infinite perplexity is null."""
    names = ("loss", "bits_per_character", "bits_per_byte", "top1", "tokens", "characters", "bytes")
    finite = own.used.perplexity if own.used.perplexity < float("inf") else None
    return {name: getattr(own.used, name) for name in names} | {"perplexity": finite, "torch_loss": own.torch.loss}


def native(scores: "Sequence[Scores]") -> str | None:
    """The native code that computed with packed weights; None where torch did."""
    from fathom.native.build import status

    return status() if any(f.used is not f.torch for f in scores) else None


def text(own: "Scores", n_windows: int) -> str:
    from fathom.report.table import plain as as_text
    from fathom.report.table import table

    used, met = own.used, own.used is not own.torch
    rows = [
        ("loss", f"{used.loss:.4f}", f"nats per token, {MEETS}" if met else "nats per token"),
        ("perplexity", f"{used.perplexity:,.3f}", "e^loss"),
        ("bits per character", f"{used.bits_per_character:.4f}", f"{used.characters:,} characters"),
        ("bits per byte", f"{used.bits_per_byte:.4f}", f"{used.bytes:,} bytes"),
        ("top-1", f"{100 * used.top1:.2f} %", "of tokens were the likeliest"),
        ("scored", f"{used.tokens:,}", f"tokens, each once, in {n_windows:,} windows"),
    ]
    rows += [("loss in torch", f"{own.torch.loss:.4f}", TORCH)] if met else []
    return as_text(table(("what", "figure", "of"), rows, numbers=(1,)))


def compared(exact: "Evaluation", size: int, reports: "Sequence[SchemeReport]") -> str:
    """The float model and each packed one, a row for each."""
    from fathom.report.table import plain as as_text
    from fathom.report.table import table
    from fathom.verification.quantised import percent

    heads = (
        "weights",
        "bits each",
        "model, MB",
        "error",
        "loss",
        "Δ loss",
        "Δ %",
        "in torch",
        "KL, nats",
        "same top-1",
    )
    rows = [("float", "", f"{size / 1e6:,.3f}", "", f"{exact.loss:.4f}", "", "", f"{exact.loss:.4f}", "", "")]
    for report in reports:
        used, change = report.scores.used, report.scores.used.loss - exact.loss
        rows.append(
            (
                report.scheme,
                f"{report.bits:.3f}",
                f"{report.model_bytes / 1e6:,.3f}",
                f"{100 * report.relative_error:.2f} %",
                f"{used.loss:.4f}",
                f"{change:+.4f}",
                f"{percent(change, exact):+.2f}",
                f"{report.scores.torch.loss:.4f}",
                f"{used.kl:.2e}",
                f"{100 * used.agreement:.2f} %",
            )
        )
    note = "bits each: of a packed weight with its scales; error: rms(w - w') / rms(w); KL(float || packed) a token\n"
    return as_text(table(heads, rows, numbers=range(1, 10))) + note + in_use(reports)


def in_use(reports: "Sequence[SchemeReport]") -> str:
    """Which figures are those of generation."""
    met = [report for report in reports if report.scores.used is not report.scores.torch]
    if not met:
        return "all computed by torch, which unpacks the weights and leaves x in floats\n"
    names, code = " and ".join(report.scheme for report in met), native([report.scores for report in met])
    return f"{names} as they generate, by {code}, {MEETS}\nin torch: {TORCH}\n"


def errors(reports: "Sequence[SchemeReport]") -> str:
    """The packing error of each kind of matrix."""
    from fathom.report.table import plain as as_text
    from fathom.report.table import table

    heads = ("weights", "matrices", "parameters", "bits each", "error", "largest |w - w'|")
    rows = [
        (
            report.scheme,
            k.kind,
            f"{k.parameters:,}",
            f"{k.bits:.3f}",
            f"{100 * k.relative_error:.2f} %",
            f"{k.max_error:.3g}",
        )
        for report in reports
        for k in report.kinds
    ]
    return as_text(table(heads, rows, numbers=range(2, 6)))
