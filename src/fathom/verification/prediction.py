"""`fathom.evaluate`: how well a model predicts a text or the answers of records, and what packing its weights costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fathom.adapters.load import Adapters, adapted_run, load
from fathom.data.batches import Batch
from fathom.errors import FathomError
from fathom.fields import build, plain
from fathom.formats.tokenizer import require_tokenizer
from fathom.native.build import status
from fathom.report.table import plain as as_text
from fathom.report.table import table
from fathom.running.ready import described
from fathom.training.events import Prepared, Report
from fathom.training.shown import shown
from fathom.verification import quantised
from fathom.verification.evaluate import EvalSet, Evaluation, eval_set
from fathom.verification.options import EvalOptions
from fathom.verification.quantised import SchemeReport, Scores, percent
from fathom.verification.trained_on import validation_part, warning
from fathom.words import counted

MEETS = "with x in 8 bits and unembed in int8"
TORCH = "the same weights, unpacked, with x and unembed in floats"


@dataclass(frozen=True, repr=False)
class Prediction:
    """How well a model predicts some data, as it is and packed. Printed, it is the tables of `fathom eval`."""

    model: str
    data: str
    about: str  # what the data are
    run: str  # device, dtype, packing
    windows: int
    stride: int | None  # tokens from one window to the next; None: records
    own: Scores
    model_bytes: int
    quantised: tuple[SchemeReport, ...]
    warning: str = ""  # that the model was trained on the data

    @property
    def loss(self) -> float:
        """Nats per token, as the model generates on this machine."""
        return self.own.used.loss

    @property
    def perplexity(self) -> float:
        """e^loss"""
        return self.own.used.perplexity

    @property
    def bits_per_character(self) -> float:
        return self.own.used.bits_per_character

    @property
    def bits_per_byte(self) -> float:
        return self.own.used.bits_per_byte

    @property
    def accuracy(self) -> float:
        """The share of tokens, 0 to 1, whose likeliest prediction was right."""
        return self.own.used.top1

    def plain(self) -> dict[str, Any]:
        """JSON values; an infinite perplexity is null."""
        names = ("loss", "bits_per_character", "bits_per_byte", "top1", "tokens", "characters", "bytes")
        finite = self.perplexity if self.perplexity < float("inf") else None
        facts = {name: getattr(self, name) for name in ("model", "data", "about", "windows", "stride", "warning")}
        scores = {name: getattr(self.own.used, name) for name in names}
        rows = [report.plain(self.own.torch) for report in self.quantised]
        return {
            **facts,
            **scores,
            "perplexity": finite,
            "torch_loss": self.own.torch.loss,
            "model_bytes": self.model_bytes,
            "native": native([self.own, *(report.scores for report in self.quantised)]),
            "quantised": rows,
        }

    def __repr__(self) -> str:
        runs = ", ".join(filter(None, [self.run, native([self.own])]))
        lines = [f"{self.model}: {runs}", f"{self.data}: {self.about}", "", text(self.own, self.windows)]
        if self.quantised:
            lines += [compared(self.own.torch, self.model_bytes, self.quantised), errors(self.quantised)]
        lines += ["", f"warning: {self.warning}"] if self.warning else []
        return "\n".join(lines).rstrip()


def evaluate(
    model: str | Path,
    data: str | Path | None = None,
    adapter: Adapters | None = None,
    options: EvalOptions | None = None,
    report: Report | None = None,
    **changes: Any,
) -> Prediction:
    """How well a model predicts a text, or the answers in a file of records.

        >>> measured = fathom.evaluate("runs/demo", "my.txt", windows=100)
        >>> measured.loss, measured.bits_per_character

    model: the path of a model in any format. data: a text file, a folder, the name of a corpus, or .json or .jsonl
    records, whose answers are scored; None: the part of its data that a run was not trained on. adapter: a folder, or
    several, on the model. options, or any field of EvalOptions by name: stride (tokens), windows (at most so many),
    quantize (int8, int4, nf4, nf4-single or all: the cost of
    packing), dtype, device. report: called with the progress, a fathom.training.events.Prepared at a time.

    Returns a Prediction; printed, it is a table. `.loss` in nats per token, `.perplexity`, `.bits_per_character`,
    `.bits_per_byte`, `.accuracy`. FathomError: no such model or data, a wrong option, nothing to predict.
    """
    chosen = build(EvalOptions, plain(options or EvalOptions()) | changes, "eval")
    schemes = [] if chosen.quantize is None else quantised.schemes(chosen.quantize)
    if chosen.quantize is not None:
        require_floats(model, chosen.quantize, adapter)
    network, its_tokenizer = load(model, chosen.dtype, chosen.device, adapter=adapter)
    tokenizer = require_tokenizer(its_tokenizer, model)
    sizes = (network.config.context_length, chosen.stride, chosen.windows)
    asked = validation_part(model, *sizes) if data is None else eval_set(str(data), tokenizer, *sizes)
    packed = [quantised.packed_copy(network, scheme) for scheme in schemes]
    with shown(report, model) as listener:
        own, *others = quantised.score_all([network, *packed], followed(asked, listener), tokenizer)
    adapters = () if adapter is None else (adapter,) if isinstance(adapter, str | Path) else adapter
    return Prediction(
        str(model),
        "validation" if data is None else str(data),
        asked.description,
        described(network, adapters=adapters),
        asked.count,
        asked.stride,
        own,
        quantised.nbytes(network),
        tuple(quantised.report(network, *row) for row in zip(packed, schemes, others)),
        "" if data is None else warning(model, str(data)),
    )


def followed(asked: EvalSet, report: Report) -> Iterator[Batch]:
    """The windows, reporting how many are done."""
    for number, window in enumerate(asked.windows, 1):
        yield window
        report(Prepared("window", number, asked.count))


def require_floats(model: str | Path, quantize: str, adapter: Adapters | None) -> None:
    """FathomError for a run on packed weights, which has no floats to compare with."""
    run = None if adapter else adapted_run(model)
    if run is not None and run.quantize is not None:
        raise FathomError(
            f"{model} is packed in {run.quantize}, as it was trained; expected floats to compare --quantize with; leave"
            f" it out, or run fathom eval {run.base} --adapter {run.adapter} --quantize {quantize}"
        )


def native(scores: Sequence[Scores]) -> str | None:
    """The native code that computed with packed weights; None where torch did."""
    return status() if any(f.used is not f.torch for f in scores) else None


def text(own: Scores, n_windows: int) -> str:
    used, met = own.used, own.used is not own.torch
    rows = [
        ("loss", f"{used.loss:.4f}", f"nats per token, {MEETS}" if met else "nats per token"),
        ("perplexity", f"{used.perplexity:,.3f}", "e^loss"),
        ("bits per character", f"{used.bits_per_character:.4f}", counted(used.characters, "character")),
        ("bits per byte", f"{used.bits_per_byte:.4f}", counted(used.bytes, "byte")),
        ("top-1", f"{100 * used.top1:.2f}%", "of the tokens were the likeliest"),
        ("scored", f"{used.tokens:,}", f"tokens, each once, in {counted(n_windows, 'window')}"),
    ]
    rows += [("loss in torch", f"{own.torch.loss:.4f}", TORCH)] if met else []
    return as_text(table(("what", "figure", "of"), rows, numbers=(1,)))


def compared(exact: Evaluation, size: int, reports: Sequence[SchemeReport]) -> str:
    """The float model and each packed one, a row for each."""
    heads = (
        "weights",
        "bits",
        "MB",
        "error",
        "loss",
        "Δ loss",
        "Δ %",
        "torch",
        "KL",
        "top-1",
    )
    rows = [("float", "", megabytes(size), "", f"{exact.loss:.4f}", "", "", f"{exact.loss:.4f}", "", "")]
    for report in reports:
        used, change = report.scores.used, report.scores.used.loss - exact.loss
        rows.append(
            (
                report.scheme,
                f"{report.bits:.2f}",
                megabytes(report.model_bytes),
                f"{100 * report.relative_error:.2f}%",
                f"{used.loss:.4f}",
                f"{change:+.4f}",
                f"{percent(change, exact):+.2f}",
                f"{report.scores.torch.loss:.4f}",
                f"{used.kl:.1e}",
                f"{100 * used.agreement:.1f}%",
            )
        )
    note = "bits: of a packed weight with its scales; error: rms(w - w') / rms(w)\n"
    note += "KL: of float || packed, in nats a token; top-1: how often both agree\n"
    return as_text(table(heads, rows, numbers=range(1, 10))) + note + in_use(reports)


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.2f}" if size < 1e9 else f"{size / 1e6:,.0f}"


def in_use(reports: Sequence[SchemeReport]) -> str:
    """Which figures are those of generation."""
    met = [report for report in reports if report.scores.used is not report.scores.torch]
    if not met:
        return "all computed by torch, which unpacks the weights and leaves x in floats\n"
    names, code = " and ".join(report.scheme for report in met), native([report.scores for report in met])
    return f"{names} as they generate, by {code}, {MEETS}\ntorch: {TORCH}\n"


def errors(reports: Sequence[SchemeReport]) -> str:
    """The packing error of each kind of matrix."""
    heads = ("weights", "matrices", "parameters", "bits each", "error", "largest |w - w'|")
    rows = [
        (
            report.scheme,
            k.kind,
            f"{k.parameters:,}",
            f"{k.bits:.3f}",
            f"{100 * k.relative_error:.2f}%",
            f"{k.max_error:.3g}",
        )
        for report in reports
        for k in report.kinds
    ]
    return as_text(table(heads, rows, numbers=range(2, 6)))
