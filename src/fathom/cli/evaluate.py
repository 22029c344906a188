"""`fathom eval MODEL`: how well a model predicts a text, what quantising it costs, its scores on benchmarks; and
`fathom verify`."""

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from fathom.cli.options import (
    device_option,
    dtype_option,
    from_fields,
    given_fields,
    model_argument,
    option,
    print_json,
    seed_option,
    verb,
)
from fathom.cli.streams import say
from fathom.errors import FathomError
from fathom.verification.options import EvalOptions, TaskOptions

if TYPE_CHECKING:
    from fathom.training.events import Report
    from fathom.verification.prediction import Prediction
    from fathom.verification.tasks import TaskScores

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
TASKS = "Tasks of lm-eval to score instead of a text: names, groups, patterns such as mmlu_*, or YAML files."
OF_TEXTS = ("data", "stride", "windows")  # options that have no meaning for tasks
TASK_NAMES = {
    "num_fewshot": ("--num-fewshot",),
    "limit": ("--limit",),
    "include_path": ("--include-path",),
    "batch_size": ("--batch-size",),
    "apply_chat_template": ("--apply-chat-template",),
}


@verb(
    "eval",
    "Loss, perplexity, bits per character and byte, and top-1 accuracy of a model on a text or on records; or with"
    " --tasks its scores on benchmarks.",
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
@option("--tasks", metavar="NAMES", heading="Benchmarks", shown="none", help=TASKS)
@from_fields("", TaskOptions, TASK_NAMES, settings={name: {"heading": "Benchmarks"} for name in TASK_NAMES})
def eval_command(model: str, tasks: str | None, adapter: tuple[str, ...], as_json: bool, **call: Any) -> None:
    from fathom.cli.train import watching

    refuse_mixed(tasks is not None, call)
    options = given_fields(EvalOptions if tasks is None else TaskOptions, call)
    with watching(model) if sys.stderr.isatty() else nullcontext() as report:
        result = scored(model, tasks, call["data"], adapter, report, options)
    say(str(result), err=as_json)
    if as_json:
        print_json(result.plain())


def refuse_mixed(asks_tasks: bool, call: Mapping[str, Any]) -> None:
    """FathomError where options of texts and of tasks are given together."""
    given = {name for name in (*OF_TEXTS, *TASK_NAMES) if call[name] not in (None, False)}
    if asks_tasks and (mixed := [name for name in OF_TEXTS if name in given]):
        raise FathomError(f"--{mixed[0]} was given with --tasks, which have texts of their own; choose one of the two")
    if not asks_tasks and (mixed := [name for name in TASK_NAMES if name in given]):
        raise FathomError(f"--{mixed[0].replace('_', '-')} was given without --tasks; add that, or leave it out")


def scored(
    model: str,
    tasks: str | None,
    data: str | None,
    adapter: tuple[str, ...],
    report: "Report | None",
    options: Mapping[str, Any],
) -> "Prediction | TaskScores":
    """The scores on tasks, or on a text."""
    if tasks is None:
        from fathom.verification.prediction import evaluate

        return evaluate(model, data, adapter, report=report, **options)
    from fathom.verification.tasks import evaluate_tasks

    return evaluate_tasks(model, tasks, adapter, report=report, **options)
