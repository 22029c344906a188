"""`fathom eval MODEL --data FILE`: how well a model predicts a text, and what quantising it would cost."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from fathom.cli.options import answer, verb
from fathom.errors import FathomError

if TYPE_CHECKING:
    from fathom.verify.evaluate import Evaluation
    from fathom.verify.quantised import SchemeReport

KINDS = "int8, int4, nf4, nf4-single or all: what packing the weights so costs."


@verb("eval", "Loss, perplexity, bits per character and byte, and top-1 accuracy of a model on a text or on records.")
@click.argument("model")
@click.option(
    "--data", required=True, metavar="FILE", help="Text as for `train`, or records, whose answers are scored."
)
@click.option("--stride", metavar="N", help="Tokens from one window to the next; default half of the context length.")
@click.option("--windows", metavar="N", help="Only so many windows or records, spread evenly; default all.")
@click.option("--quantize", metavar="KIND", help=KINDS)
@click.option("--adapter", multiple=True, metavar="FOLDER", help="An adapter on the model; several add up.")
def command(
    model: str, data: str, stride: str | None, windows: str | None, quantize: str | None, as_json: bool, **call: Any
) -> None:
    from fathom.adapters.load import load
    from fathom.formats.load import needed
    from fathom.machine import describe
    from fathom.verify import quantised
    from fathom.verify.evaluate import evaluate, questions

    limits = whole("stride", stride), whole("windows", windows)
    schemes = quantised.schemes(quantize) if quantize is not None else []
    network, found = load(model, call["dtype"] or "auto", call["device"] or "auto", adapter=call["adapter"])
    tokenizer = needed(found, model)
    asked = questions(data, tokenizer, network.config.context_length, *limits)
    packed = [quantised.packed_copy(network, scheme) for scheme in schemes]
    shown = click.progressbar(asked.windows, length=asked.count, file=sys.stderr, hidden=not sys.stderr.isatty())
    with shown as batches:
        exact, *others = evaluate([network, *packed], batches, tokenizer)
    reports = [quantised.report(network, *row) for row in zip(packed, schemes, others)]
    size, weight = quantised.nbytes(network), network.embed.weight
    how = f"{describe(weight.device)}, {str(weight.dtype)[6:]}"
    lines = [f"{model}: {how}", f"{data}: {asked.about}", "", text(exact, asked.count)]
    lines += [compared(exact, size, reports), errors(reports)] if reports else []
    click.echo("\n".join(lines).rstrip(), err=as_json)
    if as_json:
        facts = {"model": model, "data": data, "about": asked.about, "windows": asked.count, "stride": asked.stride}
        rows = [report.plain(exact) for report in reports]
        answer(facts | plain(exact) | {"model_bytes": size, "quantised": rows})


def whole(name: str, said: str | None) -> int | None:
    if said is None:
        return None
    if not said.isdecimal() or int(said) < 1:
        raise FathomError(f"--{name} is {said!r}; expected a whole number from 1")
    return int(said)


def plain(exact: "Evaluation") -> dict[str, Any]:
    """JSON values; a perplexity that is no number is null."""
    names = ("loss", "bits_per_character", "bits_per_byte", "top1", "tokens", "characters", "bytes")
    finite = exact.perplexity if exact.perplexity < float("inf") else None
    return {name: getattr(exact, name) for name in names} | {"perplexity": finite}


def text(exact: "Evaluation", n_windows: int) -> str:
    from fathom.report.table import plain as as_text
    from fathom.report.table import table

    rows = [
        ("loss", f"{exact.loss:.4f}", "nats per token"),
        ("perplexity", f"{exact.perplexity:,.3f}", "e^loss"),
        ("bits per character", f"{exact.bits_per_character:.4f}", f"{exact.characters:,} characters"),
        ("bits per byte", f"{exact.bits_per_byte:.4f}", f"{exact.bytes:,} bytes"),
        ("top-1", f"{100 * exact.top1:.2f} %", "of tokens were the likeliest"),
        ("scored", f"{exact.tokens:,}", f"tokens, each once, in {n_windows:,} windows"),
    ]
    return as_text(table(("what", "figure", "of"), rows, numbers=(1,)))


def compared(exact: "Evaluation", size: int, reports: "Sequence[SchemeReport]") -> str:
    """The float model and each packed one, a row for each."""
    from fathom.report.table import plain as as_text
    from fathom.report.table import table
    from fathom.verify.quantised import percent

    heads = ("weights", "bits each", "model, MB", "error", "loss", "Δ loss", "Δ %", "KL, nats", "same top-1")
    rows = [("float", "", f"{size / 1e6:,.3f}", "", f"{exact.loss:.4f}", "", "", "", "")]
    for report in reports:
        found, change = report.found, report.found.loss - exact.loss
        rows.append(
            (
                report.scheme,
                f"{report.bits:.3f}",
                f"{report.model_bytes / 1e6:,.3f}",
                f"{100 * report.relative_error:.2f} %",
                f"{found.loss:.4f}",
                f"{change:+.4f}",
                f"{percent(change, exact):+.2f}",
                f"{found.kl:.2e}",
                f"{100 * found.agreement:.2f} %",
            )
        )
    note = "bits each: of a packed weight with its scales; error: rms(w - w') / rms(w); KL(float || packed) a token\n"
    return as_text(table(heads, rows, numbers=range(1, 9))) + note


def errors(reports: "Sequence[SchemeReport]") -> str:
    """What packing does to each kind of matrix."""
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
