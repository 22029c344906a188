"""`fathom svd MODEL`: spectra of weights, changes and adapters, and the loss against the rank of a change; and
`fathom extract BASE TUNED`: the best adapter of a full fine-tune, by singular value decomposition.
"""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fathom.cli.completion import models
from fathom.cli.options import WholeNumber, from_fields, given_fields, model_argument, option, print_json, verb
from fathom.cli.streams import say
from fathom.errors import FathomError
from fathom.fields import build, plain
from fathom.lab.result import RankOptions
from fathom.words import counted

if TYPE_CHECKING:
    from fathom.lab.extract import Extracted
    from fathom.lab.survey import Survey

ABOUT = "Show the spectra of a model's weights, of a change or an adapter, or the loss against the rank of a change."
DELTA = "Another version of MODEL, whose change is shown; at most two of --delta and --adapter."
REPORT = "HTML page to write, with all numbers as .json beside it."
NAMES = {
    "data": ("--data",),
    "minutes": ("--minutes",),
    "steps": ("--steps",),
    "ranks": ("--ranks",),
    "keep": ("--keep",),
    "context_length": ("--context-length", "--block-size"),
    "batch_size": ("--batch-size",),
    "learning_rate": ("--lr", "--learning-rate"),
    "lora_learning_rate": ("--lora-lr",),
    "seed": ("--seed",),
    "device": ("--device",),
}
GROUPS = {
    "What to show": "deltas adapters only page",
    "Loss against rank": f"loss_vs_rank {' '.join(NAMES)}",
}


@verb("svd", ABOUT, groups=GROUPS, example="fathom svd runs/demo --report spectra.html")
@model_argument
@option("--delta", "deltas", metavar="OTHER", multiple=True, help=DELTA)
@option("--adapter", "adapters", type=click.Path(path_type=Path), metavar="FOLDER", multiple=True, help="PEFT folder.")
@option("--only", multiple=True, metavar="PATTERN", shown="all", help="Matrices to show, such as attn.q.")
@option("--report", "page", type=click.Path(path_type=Path), metavar="FILE.html", help=REPORT)
@option("--loss-vs-rank", is_flag=True, help="Fine-tune MODEL in full, cut its change at every rank, and train LoRA.")
@from_fields("", RankOptions, NAMES)
def svd_command(model: str, page: Path | None, loss_vs_rank: bool, as_json: bool, **call: Any) -> None:
    if page is not None and page.suffix not in (".html", ".htm"):
        raise FathomError(f"--report is {page}; expected a name that ends in .html (the numbers go to .json beside it)")
    given = given_fields(RankOptions, call)
    if loss_vs_rank:
        for name in ("deltas", "adapters", "only"):
            if call[name]:
                raise FathomError(f"--loss-vs-rank trains its own change; leave out --{name.removesuffix('s')}")
        result = run_experiment(model, build(RankOptions, given, "svd"), page, as_json)
    else:
        if other := sorted(given.keys() - {"seed", "device"}):
            raise FathomError(f"{other[0]} was given without --loss-vs-rank; add that, or leave it out")
        result = run_survey(model, page, as_json, call)
    if page is not None:
        say(f"report: {page}", err=True)
    if as_json:
        print_json(result)


def run_survey(model: str, page: Path | None, as_json: bool, call: dict[str, Any]) -> dict[str, Any]:
    """The survey on the terminal and as a page; without singular values for --json."""
    from fathom.cli.train import watching
    from fathom.lab.pages import survey_page, write_report
    from fathom.lab.survey import survey

    with watching(model) as watch:
        measured = survey(model, call["deltas"], call["adapters"], call["only"], watch)
    say(survey_text(measured), err=as_json)
    values: dict[str, Any] = plain(measured)
    if page is not None:
        write_report(page, survey_page(measured, page.with_suffix(".json").name), values)
    for section in values["sections"]:
        for spectrum in section["measured"]:
            del spectrum["values"]
    return values


def filled(sentences: str) -> str:
    """Lines of at most 80 characters."""
    return textwrap.fill(sentences, 80, break_long_words=False)


def survey_text(survey: "Survey") -> str:
    """A survey for the terminal."""
    from fathom.lab import report
    from fathom.report.table import plain as text
    from fathom.report.table import table

    lines = []
    for section in survey.sections:
        lines += [
            section.title,
            text(table(*report.spectra_table(section))) + report.KEY,
            filled(report.summary(section)),
            "",
        ]
        if section.intruders:
            lines.append(text(table(*report.intruders_table(section))))
    if survey.meetings:
        lines.append(text(table(*report.comparisons_table(survey))))
    return "\n".join([*lines, *map(filled, report.sampling_notes(survey))]).rstrip()


def run_experiment(model: str, options: RankOptions, page: Path | None, as_json: bool) -> dict[str, Any]:
    """Loss against rank, watched, on the terminal and as a page."""
    from fathom.cli.train import watching
    from fathom.lab import report
    from fathom.lab.pages import rank_page, write_report
    from fathom.lab.rank import loss_vs_rank
    from fathom.report.table import plain as text
    from fathom.report.table import table
    from fathom.training.signals import stop_on_signal

    with watching(model) as watch, stop_on_signal() as stop:
        try:
            result = loss_vs_rank(model, options, watch, stop.is_requested)
        except FathomError as error:
            error.exit_code = 128 + stop.requested if stop.requested else error.exit_code
            raise
    say(text(table(*report.rank_table(result))), err=as_json)
    say(text(table(*report.matrices_table(result))), err=as_json)
    say(filled(" ".join(report.conclusions(result))), err=True)
    values: dict[str, Any] = plain(result)
    if page is not None:
        write_report(page, rank_page(result, page.with_suffix(".json").name), values)
    return values


@verb(
    "extract",
    "Write the best rank-R adapter of a full fine-tune as a PEFT folder, and how much of the change it holds.",
    example="fathom extract runs/demo runs/finetune -r 8 -o adapter",
)
@click.argument("base", shell_complete=models)
@click.argument("tuned", shell_complete=models)
@option("-r", "--rank", type=WholeNumber(1), default=8, metavar="N", shown="8", help="Rank of the adapter.")
@option("--target", "layers", multiple=True, metavar="NAME", shown="all-linear", help="Layers, such as attn.q.")
@option("-o", "--out", required=True, type=click.Path(path_type=Path), metavar="FOLDER", help="The adapter's folder.")
def extract_command(
    base: str, tuned: str, rank: int, layers: tuple[str, ...], out: Path, as_json: bool, **_: Any
) -> None:
    from fathom.lab.extract import extract

    extracted = extract(base, tuned, rank, out, layers or ("all-linear",))
    say(extracted_text(extracted), err=as_json)
    if as_json:
        print_json(plain(extracted) | {"error": extracted.error})


def extracted_text(extracted: "Extracted") -> str:
    """What was written and what it leaves out."""
    from fathom.lab.report import shape_text
    from fathom.report.table import plain as text
    from fathom.report.table import table

    heads = ("tensor", "shape", "|ΔW|/|W|", "rank", "error")
    rows = [
        (part.name, shape_text(part.shape), f"{part.relative:.4f}", f"{part.rank or 'none'}", f"{part.error:.1%}")
        for part in extracted.parts
    ]
    left = sum(not part.rank for part in extracted.parts)
    lines = [
        text(table(heads, rows, (1, 2, 3, 4))).rstrip(),
        f"error is |ΔW - ΔW_r| / |ΔW|; {extracted.error:.1%} for all that was changed together",
        *([f"{left} changed tensors have rank none: they are not in the adapter"] if left else []),
        *extracted.notes,
        f"{extracted.folder}: rank {extracted.rank}, {counted(extracted.parameters, 'parameter')}",
    ]
    return "\n".join(lines)
